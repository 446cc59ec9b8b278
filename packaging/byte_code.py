# SPDX-License-Identifier: Apache-2.0
"""Run by `meson install PACKAGE_DIR`: makes the byte code of what was installed.

Each process would compile it anew otherwise: none of ours may write where it lies. Meson can do so itself from 1.2 on,
which Debian 12 has not.
"""

import compileall
import os
import sys
from pathlib import Path

destdir = os.environ.get("DESTDIR", "")
package = Path(destdir + sys.argv[1]) / "discoverd"
# What it is called in tracebacks, without DESTDIR; Python 3.11 strips the slash as well.
names = {"stripdir": destdir, "prependdir": "/"} if destdir else {}
sys.exit(not compileall.compile_dir(package, quiet=1, **names))
