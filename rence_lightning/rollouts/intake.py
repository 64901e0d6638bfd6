"""How engines take requests: one at a time and in order, as soon as there is room."""

from collections.abc import Container, Iterable

from rence_lightning.rollouts.engine import Request


class Intake:
    """The requests of a call of `generate`, counted from 0, of which those that are cancelled are passed over.

    Attributes:
        ended: Whether there are no more. A None among the requests says that there are none yet.
    """

    def __init__(self, requests: Iterable[Request | None], cancelled: Container[int]) -> None:
        self._requests = iter(requests)
        self._number = 0
        self.ended = False
        self._cancelled = cancelled
        self._waiting: tuple[int, Request] | None = None  # taken, but too large for the room there was
        self._group_size = 1  # of the last request taken: what the next one will need

    def take(self, room: int, idle: bool) -> list[tuple[int, Request]]:
        """Takes the next requests, with their numbers, for which there is room, counted in responses. If the engine is
        idle, one is taken however large it is."""
        taken: list[tuple[int, Request]] = []
        while (idle and not taken) or room >= self._group_size:
            following = self._waiting or self._next()
            self._waiting = None
            if following is None:
                break
            number, request = following
            if request.group_size < 1 or len(request.prompt) == 0:
                raise ValueError(f"request {number} has an empty prompt or a group_size below 1")
            self._group_size = request.group_size
            if number in self._cancelled:
                continue
            if request.group_size > room and (taken or not idle):
                self._waiting = following
                break
            taken.append(following)
            room -= request.group_size
        return taken

    def _next(self) -> tuple[int, Request] | None:
        for request in self._requests:
            if request is None:
                return None
            self._number += 1
            return self._number - 1, request
        self.ended = True
        return None
