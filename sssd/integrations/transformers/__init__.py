"""transformers' RT-DETR, RT-DETRv2, D-FINE and DEIMv2, and their `Trainer`.

Example:
    model = RTDetrForObjectDetection.from_pretrained("PekingU/rtdetr_r18vd", num_labels=20)
    attach(model, coefficient={"value": 4.7, "step_factor": 2.0})  # after from_pretrained
    trainer = Trainer(model, arguments, ..., callbacks=[DistillationCallback()])
    trainer.train()
    trainer.save_model()  # a plain RT-DETR
"""

from sssd.integrations.transformers.callback import DistillationCallback
from sssd.integrations.transformers.host import TransformersHost, host

__all__ = ["DistillationCallback", "TransformersHost", "host"]
