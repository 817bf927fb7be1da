"""odeval inside other programs: pytest, pre-commit, GitHub, GitLab. Importing this loads nothing."""
