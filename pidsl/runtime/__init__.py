"""Programs to callables: argument checks, caches, autograd and torch.compile around the generated code."""
