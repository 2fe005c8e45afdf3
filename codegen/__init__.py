"""From a term to a program: the plan, its checks, and the emitters. Installed as `pidsl.codegen`."""

from typing import TYPE_CHECKING, Any

from pidsl.later import submodule

if __name__ != "pidsl.codegen":  # from a checkout, `import codegen` would make a second copy of every class
    raise ImportError(f"this package is pidsl.codegen, not {__name__}: write `import pidsl.codegen`")

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)
