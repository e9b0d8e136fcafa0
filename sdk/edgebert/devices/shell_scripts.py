"""Scripts that run in a device's POSIX shell. Every value goes in through `quote`, nothing else does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from shlex import quote

from edgebert.devices.facts import COMMANDS, FILES, READING_LIMIT

OWN = ".edgebert"  # of the work folder: whose it is and what runs in it
REFUSED, NOT_THERE = 65, 66  # exit codes of the scripts below
GRACE = 15  # seconds for a host whose connection broke to come back before its folder is removed

# Tell the process id before anything starts, and start nothing in a folder that is about to go.
START = 'echo $$ > "$0" && [ -e "${0%/*}/keeper" ] && exec "$@"'


def framed(token: str, body: str) -> str:
    """`body` in a subshell, after `token` on stdout and before `token` and its exit code on stderr.

    What a login script prints comes before the first, and a connection that broke never gives the last.
    """
    return f"printf '%s\\n' {token}\n(\n{body}\n)\nprintf '\\n%s %d\\n' {token} $? >&2"


def keep(base: str, name: str, token: str, again: bool = False) -> str:
    """Make the work folder, say where it is, and stay until told "bye" or cut off; then leave nothing.

    base: a folder as the device's shell writes it, so that it may be a variable of the device.
    A host that came back (`again`: the folder must still be there) has another keeper, whose token stands in
    the folder: this one then leaves it alone.
    """
    gone = f'[ -d "$work/{OWN}" ] || {{ echo "the work folder is gone" >&2; exit 1; }}\n' if again else ""
    return f"""trap '' HUP PIPE
umask 077
work={base}/{name}
{gone}mkdir -p "$work/{OWN}" && printf '%s\\n' {token} > "$work/{OWN}/keeper" || exit 1
printf '\\n%s %s\\n' {token} "$work"
read -r word
if [ "$word" != bye ]; then
  sleep {GRACE}
  [ "$(cat "$work/{OWN}/keeper")" = {token} ] || exit 0
fi
{_remove()}
printf '%s gone\\n' {token}"""


def remove(work: str) -> str:
    """Kill what runs in the work folder and remove it."""
    return f"work={quote(work)}\n{_remove()}"


def run(work: str, words: Sequence[str], env: Mapping[str, str], token: str) -> str:
    """Run a program in the work folder, in a session of its own where the device can do that.

    What an earlier attempt under the same token left is killed first.
    """
    exports = "".join(f"export {name}={quote(value)}\n" for name, value in env.items())
    record = quote(f"{work}/{OWN}/run-{token}")
    return f"""[ ! -e {record} ] || {{ {_kill(record)}; }}
cd {quote(work)} || exit 127
{exports}own=
command -v setsid > /dev/null 2>&1 && own=setsid
$own sh -c '{START}' {record} {" ".join(map(quote, words))} < /dev/null &
wait $!
code=$?
pid=$(cat {record} 2> /dev/null) && kill -s KILL -- "-$pid" 2> /dev/null
rm -f {record}
exit $code"""


def kill(work: str, token: str) -> str:
    """Kill the program that `run` started under this token."""
    return _kill(quote(f"{work}/{OWN}/run-{token}"))


def receive(part: str) -> str:
    """Write stdin to `part`."""
    return f"umask 077\ncat > {quote(part)}"


def finish(part: str, final: str, digest: str | None, executable: bool) -> str:
    """Rename `part` to `final` when its SHA-256 is `digest` (None: compared already).

    Exit codes: REFUSED: another hash; NOT_THERE: the device cannot compute one.
    """
    check = (
        f'{_digest(part)}\n[ -n "$sum" ] || exit {NOT_THERE}\n[ "$sum" = {digest} ] || exit {REFUSED}\n'
        if digest
        else ""
    )
    mode = "700" if executable else "600"
    return (
        f"{check}chmod {mode} {quote(part)} && mkdir -p {quote(_parent(final))}"
        f" && mv -f {quote(part)} {quote(final)}"
    )


def send(path: str, limit: int) -> str:
    """Print size and SHA-256 ("-": the device cannot compute it) of a plain file in a line, then the file.

    Exit codes: NOT_THERE: no plain file; REFUSED: more than `limit` bytes.
    """
    return f"""[ -f {quote(path)} ] || exit {NOT_THERE}
size=$(wc -c < {quote(path)}) || exit {NOT_THERE}
[ "$size" -le {limit} ] || exit {REFUSED}
{_digest(path)}
printf '%d %s\\n' "$size" "${{sum:--}}"
cat {quote(path)}"""


def readings(token: str) -> str:
    """Print the files and commands of `edgebert.devices.facts`, each after a line of `token` and its name."""
    lines = []
    for name, pattern in FILES.items():
        lines += [f"printf '\\n%s %s\\n' {token} {name}",
                  f"for file in {pattern}; do head -c {READING_LIMIT} \"$file\"; echo; done"]  # fmt: skip
    for name, command in COMMANDS.items():
        lines += [f"printf '\\n%s %s\\n' {token} {name}", f"{command} < /dev/null"]
    return "(" + "\n".join(lines) + "\n) 2> /dev/null\nexit 0"


def _digest(path: str) -> str:
    return f"sum=$(sha256sum < {quote(path)} 2> /dev/null)\nsum=${{sum%% *}}"


def _kill(record: str) -> str:
    """`record`: quoted. The group goes where the program leads one, else the program alone."""
    return (
        f'pid=$(cat {record} 2> /dev/null) && [ -n "$pid" ] && '
        '{ kill -s KILL -- "-$pid" || kill -s KILL "$pid"; } 2> /dev/null'
    )


def _remove() -> str:
    # Without the keeper's file nothing starts any more, so that the records are all there is.
    return f"""rm -f "$work/{OWN}/keeper"
for record in "$work/{OWN}"/run-*; do
  {_kill('"$record"')}
done
rm -rf "$work\""""


def _parent(path: str) -> str:
    return str(PurePosixPath(path).parent)
