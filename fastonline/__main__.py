import sys

from fastonline.cli import main

sys.exit(main())
