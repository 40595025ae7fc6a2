"""Edit a picture and save what the model foresees after each step.

python examples/watch.py examples/scene.png "make it night" out/steps
"""

import sys
from pathlib import Path

import openkontext

image, prompt, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)

editor = openkontext.load()
for step in editor.steps(openkontext.EditRequest(image=image, prompt=prompt, seed=1)):
    step.save(folder / f"step-{step.index:02}.png")
    print(f"step {step.index} of {step.count}, noise left: {step.sigma:.2f}")
