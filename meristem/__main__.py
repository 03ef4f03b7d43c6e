"""``python -m meristem``."""

from meristem.cli import main

if __name__ == "__main__":
    main()
