"""Language models: transformers as the bundles that every method takes, from toys to checkpoints of Hugging Face.

``model`` has networks and the bundles made of them, ``hf`` reads and writes checkpoints, ``data`` makes tokens of
preference data, ``judges`` say which response is better, ``budget`` says what a run will need.
"""
