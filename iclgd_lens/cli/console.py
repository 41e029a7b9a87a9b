"""What every command needs: consoles, progress, quiet libraries, one line for an error.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, cast

import typer
from rich.console import Console

NOT_PRINTED = 1
"""Exit code where standard output took nothing."""
_WIDE = 200  # columns where the output is a file or a pipe, so that no cell is cut
_NARROW, _WIDEST = 20, 1000  # what is narrower holds no word, what is wider no line
_PATIENCE = 2.0  # seconds before anything is said about what goes on
_QUIET_ENVIRONMENT = {
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
_QUIET_LOGGERS = ("transformers", "transformer_lens", "huggingface_hub", "datasets", "root")


@contextlib.contextmanager
def usable_width() -> Generator[None]:
    """Leave out widths in the environment that are none, in which nothing would be printed.

    What is no positive number is as if it were not set; a width that holds no word, or more than
    any line, becomes one that does.
    """
    before = {name: os.environ.get(name) for name in ("COLUMNS", "LINES")}
    for name, given in before.items():
        if given is None:
            continue
        plain = given.isascii() and given.isdigit() and len(given) < 20
        if not plain or int(given) == 0:
            del os.environ[name]
        elif name == "COLUMNS":
            os.environ[name] = str(min(max(int(given), _NARROW), _WIDEST))
    try:
        yield
    finally:
        os.environ.update({name: given for name, given in before.items() if given is not None})


def is_piped() -> bool:
    """Whether nothing says how wide standard output is: it is a file, a pipe, or closed."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return not terminal and "COLUMNS" not in os.environ


def output() -> Console:
    """Standard output; wide where nothing says how wide it is."""
    console = Console(width=_WIDE if is_piped() else None, highlight=False, soft_wrap=False)
    console.width = max(console.width, _NARROW)  # of a terminal that tells none, or hardly any
    return console


def say(console: Console, text: str, **how: Any) -> None:
    """Print prose: whole lines where nothing says how wide they may be."""
    piped = console.width == _WIDE and not console.is_terminal
    console.print(text, markup=False, soft_wrap=piped, **how)


@contextlib.contextmanager
def any_encoding() -> Generator[None]:
    """Replace characters that standard output cannot hold, in place of losing what is printed."""
    stream: Any = sys.stdout
    if getattr(stream, "errors", None) != "strict" or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        if not stream.closed:
            stream.reconfigure(errors="strict")


def deliver(text: str, name: str) -> bool:
    """Write a finished result to standard output; where that takes nothing, to a file.

    Args:
        text: The result.
        name: What the file is called, in the working directory (see `write_somewhere`).

    Returns:
        Whether standard output took it; where not, a line on standard error says where it is.
    """
    from iclgd_lens.files import write_somewhere

    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
        return True
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        silence()
        place = write_somewhere(name, text.encode()).resolve()
        why = getattr(error, "strerror", None) or error
        note(f"standard output takes nothing ({why}); the result is in {place}")
        return False


def present(show: Callable[[Console], None], name: str) -> bool:
    """Deliver what `show` prints, made as standard output takes it; see `deliver`."""
    shown = output()
    text = _Text(shown.encoding)
    show(
        Console(
            file=text, width=shown.width, force_terminal=shown.is_terminal, highlight=False,
            color_system=shown.color_system, no_color=shown.no_color,  # type: ignore[arg-type]
        )
    )  # fmt: skip
    return deliver(text.getvalue(), name)


def hand_over(document: str | None, show: Callable[[Console], None], name: str) -> None:
    """Print a JSON document or, without one, what `show` prints.

    Raises:
        typer.Exit: Standard output took nothing; the result is in a file, which is said.
    """
    if document is None:
        delivered = present(show, f"{name}.txt")
    else:
        delivered = deliver(json_text(document) + "\n", f"{name}.json")
    if not delivered:
        raise typer.Exit(NOT_PRINTED)


class _Text(io.StringIO):
    """Text in memory that knows in which encoding it will be written."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def silence() -> None:
    """Let what is left in standard output's buffer go nowhere, so that Python's end is quiet."""
    _to_nowhere(sys.stdout)


def _to_nowhere(stream: Any) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def json_text(text: str) -> str:
    """A JSON document in characters that standard output can hold."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        return text
    except (UnicodeError, LookupError):
        return json.dumps(json.loads(text))


def messages() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def one_line(error: BaseException | str) -> str:
    """A message without line breaks."""
    return " ".join(str(error).split())


def complain(text: BaseException | str) -> None:
    """Write one line to standard error."""
    tell(f"iclgd: {one_line(text)}")


def note(text: BaseException | str) -> None:
    """Write one line to standard error about something that is no error."""
    tell(f"note: {one_line(text)}")


def tell(line: str) -> None:
    """Write a line to standard error; nothing where that is closed or full."""
    if sys.stderr is not None:  # print() would take standard output in its place
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            _to_nowhere(sys.stderr)


@contextlib.contextmanager
def quiet_libraries() -> Generator[None]:
    """Silence what other libraries say at start-up; this package's warnings become notes.

    Everything is as before on exit: a program that calls the command line in its own process keeps
    its warnings and loggers.
    """
    before = {key: os.environ.get(key) for key in _QUIET_ENVIRONMENT}
    levels = {name: logging.getLogger(name).level for name in _QUIET_LOGGERS}
    for key, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    bars = _progress_bars()
    if bars is not None:
        bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_own
            warnings.simplefilter("default")
            yield
    finally:
        if bars is not None:
            bars.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _progress_bars() -> Any:
    """The switch of `transformers`' progress bars, where it is loaded already and they are on.

    Where it is not loaded yet, the environment tells it.
    """
    loaded: Any = sys.modules.get("transformers.utils.logging")
    return loaded if loaded is not None and loaded.is_progress_bar_enabled() else None


def _show_own(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category.__module__.partition(".")[0] == "iclgd_lens":
        note(str(message))


@contextlib.contextmanager
def progress() -> Generator[Callable[[str], None]]:
    """Yield a function that says what is being done now.

    On a terminal it moves a spinner that shows the time taken; elsewhere it writes plain lines,
    from the first stage that begins after two seconds on, so that quick work stays silent.
    """
    console = messages()
    if console.is_terminal:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("starting", total=None)
            yield lambda text: shown.update(task, description=_escape(text))
        return
    began = time.monotonic()

    def write(text: str) -> None:
        seconds = time.monotonic() - began
        if seconds >= _PATIENCE:
            tell(f"[{seconds:5.1f} s] {text}")

    yield write


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    print(json_text(json_document(document)))


def json_document(document: Any) -> str:
    """A JSON document in which nothing is "not a number": such values are null."""
    return json.dumps(_plain(document), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Mappings, lists and plain values; of NumPy's and pandas' numbers what they hold."""
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {str(key): _plain(item) for key, item in pairs}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if hasattr(value, "item"):
        return _plain(value.item())
    missing = type(value).__name__ == "NAType" or (
        isinstance(value, float) and not math.isfinite(value)
    )
    return None if missing else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is never broken."""
    output().print(table_of(columns, rows))


def table_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table whose first column is never broken."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column == columns[0])
    for first, *rest in rows:
        table.add_row(Text(first, style="bold"), *(Text(cell) for cell in rest))
    return table


def numbers_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table of numbers, none of them ever broken; the first column names the lines."""
    from rich.text import Text

    from iclgd_lens.results.stacked_table import StackedTable

    table = StackedTable()
    for column in columns:
        table.add_column(column)
    for first, *rest in rows:
        table.add_row(Text(first, style="bold"), *(Text(cell) for cell in rest))
    return table
