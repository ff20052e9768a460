"""`python -m wain`."""

from wain.commands.main import main

raise SystemExit(main())
