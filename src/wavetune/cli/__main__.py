"""`python -m wavetune.cli`."""

from wavetune.cli.app import main

if __name__ == "__main__":
    main()
