"""A driver of its own, to be killed: python -m tests.train.driver FOLDER DATASET_ROOT T5."""

import sys
from pathlib import Path

from infra import cluster
from infra.tracking import TrackingSettings, connect
from tests.train.test_run import job
from train.run import train_stage
from train.text_config import TextSettings

if __name__ == "__main__":
    folder, root, model = sys.argv[1:]
    cluster.start(cluster.ClusterSettings(num_cpus=4, dashboard=False, object_store_mib=256))
    place = (Path(folder), root, TextSettings(model=model))
    train_stage(job(place, "driver-killed"), connect(TrackingSettings(), folder))
