"""Cuts GitHub's GraphQL schema down to what bot/board.py asks for, once for each new version of it.

    npm pack @octokit/graphql-schema@15.26.1
    tar -xzf octokit-graphql-schema-15.26.1.tgz package/schema.graphql
    python tests/slim_graphql.py package/schema.graphql

@octokit/graphql-schema is under the MIT licence (Copyright (c) GitHub 2025). The SHA-256 of its file is kept in the slim one, so
that a check may redo the cut and compare.
"""

import hashlib
import sys
from pathlib import Path

from graphql import DefinitionNode, FieldDefinitionNode, parse, print_ast

SLIM = Path(__file__).with_name("cases") / "github-projects.graphql"
# Types with the fields that stay; "" keeps one as it is, less its prose.
KEPT = {
    "Query": "user organization", "User": "projectV2", "Organization": "projectV2", "ProjectV2": "id field",
    "ProjectV2FieldConfiguration": "ProjectV2Field ProjectV2SingleSelectField", "ProjectV2Field": "id name",
    "ProjectV2SingleSelectField": "id name options", "ProjectV2SingleSelectFieldOption": "id name",
    "Mutation": "addProjectV2ItemById updateProjectV2ItemFieldValue",
    "AddProjectV2ItemByIdInput": "", "AddProjectV2ItemByIdPayload": "item",
    "ProjectV2Item": "id isArchived fieldValueByName",
    "ProjectV2ItemFieldValue": "ProjectV2ItemFieldSingleSelectValue ProjectV2ItemFieldTextValue",
    "ProjectV2ItemFieldSingleSelectValue": "id name optionId", "ProjectV2ItemFieldTextValue": "id text",
    "UpdateProjectV2ItemFieldValueInput": "", "ProjectV2FieldValue": "", "UpdateProjectV2ItemFieldValuePayload": "projectV2Item",
    "Date": "",
}


def slim(schema: str) -> str:
    """The kept types, in the schema's own order, without prose, directives and interfaces."""
    cut = [print_ast(_bare(definition)) for definition in parse(schema, no_location=True).definitions
           if getattr(getattr(definition, "name", None), "value", "") in KEPT]
    assert len(cut) == len(KEPT), "a type has another name by now"
    return f"# sha256 {hashlib.sha256(schema.encode()).hexdigest()}\n\n" + "\n\n".join(cut) + "\n"


def _bare(definition: DefinitionNode) -> DefinitionNode:
    wanted = KEPT[definition.name.value].split()  # type: ignore[attr-defined]
    definition.description, definition.directives = None, ()  # type: ignore[attr-defined]
    if hasattr(definition, "interfaces"):
        definition.interfaces = ()
    if hasattr(definition, "types"):
        definition.types = tuple(one for one in definition.types if one.name.value in wanted)
    if hasattr(definition, "fields"):
        definition.fields = tuple(_without_prose(one) for one in definition.fields if not wanted or one.name.value in wanted)
    return definition


def _without_prose(field: FieldDefinitionNode) -> FieldDefinitionNode:
    field.description, field.directives = None, ()
    for argument in getattr(field, "arguments", ()):
        argument.description = None
    return field


if __name__ == "__main__":
    SLIM.write_text(slim(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
