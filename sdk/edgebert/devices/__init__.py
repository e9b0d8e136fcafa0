"""Where a package runs: this machine, an emulated ARM64, a board over SSH, a phone over adb."""
