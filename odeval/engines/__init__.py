"""Who answers: the embedded engine `hf`; later vllm, server and the exact toy oracle."""
