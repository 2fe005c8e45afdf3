"""The main job: declare, analyse, compile, check, time and train. Run it with `python -m pidsl demo`."""
