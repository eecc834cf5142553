import sys

from fastonline.cli import command

if __name__ == "__main__":
    sys.exit(command())
