"""`python -m repairkit`: the command line, with nothing imported from the working folder.

Python puts that folder before all that is installed. Only what is loaded already is imported here
before it is taken off again.
"""

from __future__ import annotations

import os
import sys

if not sys.flags.safe_path and os.path.realpath(sys.path[0]) == os.path.realpath(""):
    del sys.path[0]

if __name__ == "__main__":
    from repairkit.cli import main

    main()
