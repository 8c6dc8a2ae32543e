"""Run in .venv-litellm: asks with LiteLLM what standard input says, and prints the answers as it gives them, as JSON.

litellm_client.py BASE_URL < a JSON list of the fields of requests
"""

import json
import sys

import litellm  # pyright: ignore[reportMissingImports]

answers = []
for fields in json.load(sys.stdin):
    model = f"openai/{fields.pop('model')}"
    response = litellm.completion(model=model, api_base=sys.argv[1], api_key="none", num_retries=0, **fields)
    answers.append([chunk.model_dump() for chunk in response] if fields.get("stream") else response.model_dump())
print(json.dumps(answers))
