"""`python -m metarl`."""

import sys

from metarl.cli.main import main

sys.exit(main())
