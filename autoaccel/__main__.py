"""`python -m autoaccel`: the command line without the `autoaccel` script. Must not do anything else."""

from autoaccel.cli import main

if __name__ == "__main__":
    main()
