"""`python -m graphc.cli`: the command without its script."""

import sys

from graphc.cli import main

sys.exit(main())
