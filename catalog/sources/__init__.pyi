from .layouts import LAYOUTS as LAYOUTS
from .reader import OpenSource as OpenSource
from .reader import Peek as Peek
from .reader import open_source as open_source
from .reader import peek as peek
from .spec import Block as Block
from .spec import SourceFile as SourceFile
from .spec import SourceSpec as SourceSpec
