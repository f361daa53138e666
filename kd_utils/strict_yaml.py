"""YAML without surprises: no key twice, no aliases without end, 1e-3 a number, and errors that name file and line."""

import re
from pathlib import Path
from typing import Any

import yaml

from . import files
from .text import quoted


class YamlError(ValueError):
    """A file that cannot be read as YAML; the message names the line, where there is one, and not the file."""


def read(path: Path) -> Any:
    """What a YAML file of at most MOST_BYTES says. Raises YamlError."""
    try:
        return yaml.load(files.read_text(path, MOST_BYTES), _Loader)
    except YamlError:
        raise
    except UnicodeDecodeError as e:
        raise YamlError(f"not UTF-8 ({e.reason}, byte {e.start}); save the file as UTF-8") from None
    except RecursionError:
        raise YamlError("nested too deep; a study has a handful of levels") from None
    except OSError as e:
        raise YamlError(f"cannot be read ({e.strerror}); is it the right file, and may you read it?") from None
    except Exception as e:  # PyYAML raises many kinds for a number or a date that is none
        why = str(e) if isinstance(e, (yaml.YAMLError, ValueError)) else "a value is not of the type that its tag says"
        raise YamlError(f"not YAML: {' '.join(why.split())}") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key named twice (plain YAML silently keeps the last), and aliases without end."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _size(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        key_nodes = [k for k, _ in node.value if k.tag != "tag:yaml.org,2002:merge"]  # `<<` takes in another mapping
        keys = [self.construct_object(k, deep=True) for k in key_nodes]
        for key_node, key in zip(key_nodes, keys, strict=True):
            if not isinstance(key, str):
                line = key_node.start_mark.line + 1
                raise YamlError(f"line {line}: the key {quoted(key)} is no word; put a name before the colon")
            if keys.count(key) > 1:
                raise YamlError(f"line {key_node.start_mark.line + 1}: the key '{key}' is given twice")
        return super().construct_mapping(node, deep)


MOST_BYTES = 1_000_000  # of a study file
MOST_VALUES = 10_000  # in it, those of aliases counted wherever they stand


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node comes to with its aliases written out. Raises YamlError where they are too many."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES  # what holds itself has no end
        inner = (n for item in node.value for n in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_size(n, known) for n in inner)
    if known[id(node)] > MOST_VALUES:
        line = node.start_mark.line + 1
        raise YamlError(f"line {line}: this comes to more than {MOST_VALUES:,} values; use fewer aliases, or lists")
    return known[id(node)]


# YAML 1.1, which PyYAML reads, takes 1e-3 for a string
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
