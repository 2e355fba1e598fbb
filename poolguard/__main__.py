"""``python -m poolguard`` is the command ``poolguard``."""

import sys

from .cli import main

sys.exit(main())
