"""Pictures of prompts: where they stand, where their bytes lie, and what is shown of them.

A table that people and trainers see has a column `images` (`IMAGES`), and the mark `<image>` stands
at each picture's place in the contents of `prompt`. Inside of a run the mark holds the name of the
picture's bytes (`<image:NAME>`, `prefactory.images.marks`) and the bytes lie once in the store
(`prefactory.images.files`): so a picture is part of every id, and goes wherever its prompt goes.
"""
