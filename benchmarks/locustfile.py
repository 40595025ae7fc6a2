"""A user of the service, for `benchmarks/service.py load`: submits, polls until it is done, downloads."""

import base64
import os
import time
from pathlib import Path

from locust import HttpUser, between, task

PICTURE = base64.b64encode((Path(__file__).parents[1] / "examples" / "scene.png").read_bytes()).decode()

STEPS = int(os.environ["STEPS"]) if "STEPS" in os.environ else None
"""Of each edit; the model's own number by default. A few make a soak of more edits."""


class Editing(HttpUser):
    """Edits one picture after another; waits where it is told to come later."""

    wait_time = between(0.1, 0.5)

    @task
    def edit(self) -> None:
        """One edit."""
        inputs = {"prompt": "make it night", "input_image": PICTURE, "steps": STEPS}
        with self.client.post(
            "/v1/flux-kontext-dev", json=inputs, name="submit", catch_response=True
        ) as answer:
            if answer.status_code == 429:
                answer.success()
                time.sleep(float(answer.headers["Retry-After"]))
                return
        id = answer.json()["id"]
        while True:
            done = self.client.get("/v1/get_result", params={"id": id}, name="poll").json()
            if done["status"] != "Pending":
                break
            time.sleep(0.5)
        self.client.get(done["result"]["sample"], name="download")
