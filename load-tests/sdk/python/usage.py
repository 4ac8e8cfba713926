"""Reads a project's usage through openai-python's admin.organization.usage, and prints its sums, one line of JSON."""

import json
import os
import sys

from openai import OpenAI

base_url, project, start_time = sys.argv[1:]
client = OpenAI(admin_api_key=os.environ["OPENAI_ADMIN_KEY"], base_url=base_url, max_retries=0)
usage = client.admin.organization.usage


def results(report, **asked):
    page = None
    while True:
        more = {"page": page} if page else {}
        buckets = report(start_time=int(start_time), project_ids=[project], group_by=["project_id"], **asked, **more)
        for bucket in buckets.data:
            yield from bucket.results
        page = buckets.next_page
        assert buckets.has_more == bool(page), buckets
        if not page:
            return


completions = list(results(usage.completions, bucket_width="1h", limit=1))
embeddings = list(results(usage.embeddings, bucket_width="1d"))
costs = list(results(usage.costs))
assert all(one.project_id == project for one in completions + embeddings + costs)
print(json.dumps({
    "requests": sum(one.num_model_requests for one in completions + embeddings),
    "input": sum(one.input_tokens for one in completions + embeddings),
    "output": sum(one.output_tokens for one in completions),
    "amounts": [one.amount for one in costs],
}))
