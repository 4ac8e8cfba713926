"""Administers through openai-python's admin.organization, and prints what came of it, one line of JSON."""

import json
import os
import sys

from openai import InternalServerError, NotFoundError, OpenAI

client = OpenAI(admin_api_key=os.environ["OPENAI_ADMIN_KEY"], base_url=sys.argv[1], max_retries=0)
organization = client.admin.organization

project = organization.projects.create(name="python")
renamed = organization.projects.update(project_id=project.id, name="python 2")
assert renamed.name == "python 2" and renamed.status == "active", renamed
assert organization.projects.retrieve(project_id=project.id).id == project.id
assert project.id in [one.id for one in organization.projects.list(limit=1)], "over several pages"

accounts = organization.projects.service_accounts
account = accounts.create(project_id=project.id, name="bot", expires_in_seconds=3600)
assert account.role == "member" and account.api_key.value.startswith("sk-lt-"), account
assert account.api_key.expires_at > account.created_at
assert accounts.retrieve(project_id=project.id, service_account_id=account.id).name == "bot"
second = accounts.api_keys.create(project_id=project.id, service_account_id=account.id, name="second")
assert second.value.startswith("sk-lt-"), second

keys = organization.projects.api_keys
listed = list(keys.list(project_id=project.id, limit=1))
assert [one.id for one in listed] == [account.api_key.id, second.id], listed
assert listed[0].owner.service_account.id == account.id
assert account.api_key.value not in listed[0].to_json()
assert keys.delete(project_id=project.id, api_key_id=second.id).deleted
assert [one.id for one in keys.list(project_id=project.id)] == [account.api_key.id]

deleted = accounts.delete(project_id=project.id, service_account_id=account.id)
assert deleted.deleted and list(accounts.list(project_id=project.id)) == []
try:
    accounts.retrieve(project_id=project.id, service_account_id=account.id)
    raise SystemExit("a service account that was deleted is still there")
except NotFoundError as error:
    assert account.id in error.message, error

usage = organization.usage
asked = {"start_time": project.created_at, "project_ids": [project.id], "group_by": ["project_id"], "limit": 7}
for report in (usage.completions, usage.embeddings, usage.costs):
    try:
        report(**asked)
        raise SystemExit("usage without ClickHouse")
    except InternalServerError as error:
        # What was asked is understood, and only ClickHouse is away.
        assert error.status_code == 503, error

admin = organization.admin_api_keys.create(name="python's", expires_in_seconds=60)
assert admin.value.startswith("sk-ltadm-") and admin.owner.role == "owner", admin
assert admin.id in [one.id for one in organization.admin_api_keys.list(limit=1)]
assert organization.admin_api_keys.retrieve(key_id=admin.id).name == "python's"
assert organization.admin_api_keys.delete(key_id=admin.id).deleted

archived = organization.projects.archive(project_id=project.id)
assert archived.archived_at >= archived.created_at, archived
assert project.id not in [one.id for one in organization.projects.list()]
assert project.id in [one.id for one in organization.projects.list(include_archived=True)]

logs = organization.audit_logs.list(project_ids=[project.id], effective_at={"gte": project.created_at})
types = [one.type for one in logs]
made = organization.audit_logs.list(event_types=["project.created", "service_account.created"], limit=100)
assert {one.type for one in made} == {"project.created", "service_account.created"}
print(json.dumps({"project": project.id, "types": types, "actor": next(iter(made)).actor.api_key.id}))
