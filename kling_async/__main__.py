"""``python -m kling_async``: the program ``kling`` where its script is not at hand."""

import sys

from kling_async._cli import main

sys.exit(main())
