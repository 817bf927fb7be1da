"""`python -m odkd`, which is what `accelerate launch -m odkd` starts on every GPU."""

import sys

from odkd.cli import main

if __name__ == "__main__":
    sys.exit(main())
