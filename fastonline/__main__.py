import sys

from fastonline.cli import main

if __name__ == "__main__":
    sys.exit(main())
