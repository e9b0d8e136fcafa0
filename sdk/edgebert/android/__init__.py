"""The Android library: its native and Java parts, and the archive that an app takes in."""
