"""Pictures of this machine: each drawn from what is really there, each with the same in words.

In a notebook the name of a picture as a cell's last line shows it. `print(picture)` says it in words, `picture.html()`
is the drawing.
"""

from minidocker.course.widgets.building import building
from minidocker.course.widgets.engine_map import engine_map
from minidocker.course.widgets.layers import layers
from minidocker.course.widgets.life import life
from minidocker.course.widgets.limits import limits
from minidocker.course.widgets.namespaces import namespaces
from minidocker.course.widgets.packet import packet
from minidocker.course.widgets.picture import Picture
from minidocker.course.widgets.pulling import pulling
from minidocker.course.widgets.stack import stack
from minidocker.course.widgets.terminal import terminal

__all__ = [
    "Picture",
    "building",
    "engine_map",
    "layers",
    "life",
    "limits",
    "namespaces",
    "packet",
    "pulling",
    "stack",
    "terminal",
]
