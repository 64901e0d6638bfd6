"""Numbers as the report writes them."""


def percent(value: float, sign: bool = False) -> str:
    """A share in percent, without the sign of percent."""
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def share(value: float) -> str:
    """A share in percent; a small one is not rounded to zero."""
    return f"{value:.1%}" if value == 0 or value >= 5e-4 else f"{100 * value:.1g}%"


def number(value: float) -> str:
    """A whole number, or three digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


def clock(seconds: float) -> str:
    """A time as `4.2 s`, `3 min 05 s`, `2 h 05 min` or `5 d 03 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest:02} s"
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"
