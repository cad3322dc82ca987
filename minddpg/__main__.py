"""python -m minddpg"""

from .cli import main

raise SystemExit(main())
