"""``python -m kling_async._cli``: the program ``kling`` where its script is not installed."""

import sys

from kling_async._cli import main

sys.exit(main())
