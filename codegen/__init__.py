"""From a term to a program: the plan, its checks, and the emitters. Installed as `pidsl.codegen`."""

if __name__ != "pidsl.codegen":  # from a checkout, `import codegen` would make a second copy of every class
    raise ImportError(f"this package is pidsl.codegen, not {__name__}: write `import pidsl.codegen`")
