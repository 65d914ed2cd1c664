"""`python -m fastbn`: the command line."""

from fastbn.cli import main

if __name__ == "__main__":
    main()
