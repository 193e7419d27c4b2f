"""`python -m convscope.cli`: the program `convscope` where its script is not on the path."""

from convscope.cli.app import main

if __name__ == "__main__":
    main()
