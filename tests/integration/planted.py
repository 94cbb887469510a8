"""Functions and operators that a stranger made, each a closer match than PostgreSQL's own: whatever calls one fails."""

import re
from pathlib import Path

import asyncpg

_ROOT = Path(__file__).parents[2]
_SOURCES = [
    path
    for folder in ("adapters/postgres", "migrations")
    for kind in ("*.py", "*.sql")
    for path in (_ROOT / folder).rglob(kind)
]
CALLED = sorted({name for path in _SOURCES for name in re.findall(r"\b([a-z_][a-z0-9_]*)\(", path.read_text())})
"""Every word before a parenthesis in the statements' sources. The names that are no function of PostgreSQL's do no harm."""

SCALARS = (
    "text", "varchar", "name", '"char"', "smallint", "int", "bigint", "float8", "numeric", "boolean", "uuid", "timestamptz",
    "timestamp", "date", "interval", "bytea", "json", "oid", "regclass",
)  # fmt: skip
TYPES = (*SCALARS, *(f"{kind}[]" for kind in SCALARS if kind not in ("json", "regclass")))
COMPARING = ("=", "<>", "<", "<=", ">", ">=", "~", "~~", "!~~")
COMPUTING = ("+", "-", "*", "/", "||")

PLANT = """
CREATE SEQUENCE public.sprung;
GRANT ALL ON SEQUENCE public.sprung TO PUBLIC;
DO $plant$
DECLARE
    types text[] := %(types)s;
    l text; r text; symbol text; kind text; place int; arguments text[];
    p record;
    body constant text := ' LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_catalog.nextval(''public.sprung''); RAISE EXCEPTION ''a planted function ran''; END $$';
BEGIN
    FOREACH l IN ARRAY types LOOP
        FOREACH r IN ARRAY types LOOP
            EXECUTE format('CREATE FUNCTION public.compare(%%s, %%s) RETURNS boolean', l, r) || body;
            EXECUTE format('CREATE FUNCTION public.compute(%%1$s, %%2$s) RETURNS %%1$s', l, r) || body;
            FOREACH symbol IN ARRAY %(comparing)s LOOP
                EXECUTE format('CREATE OPERATOR public.%%s (FUNCTION = public.compare, LEFTARG = %%s, RIGHTARG = %%s)',
                               symbol, l, r);
            END LOOP;
            FOREACH symbol IN ARRAY %(computing)s LOOP
                EXECUTE format('CREATE OPERATOR public.%%s (FUNCTION = public.compute, LEFTARG = %%s, RIGHTARG = %%s)',
                               symbol, l, r);
            END LOOP;
        END LOOP;
    END LOOP;
    FOR p IN
        SELECT proname, proretset, provariadic, pronargs,
               ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) WITH ORDINALITY AS a(t, n) ORDER BY n) AS given,
               format_type(prorettype, NULL) AS result
          FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a', 'w')
                         AND proname = ANY(%(called)s) AND pronargs > 0
    LOOP
        FOR place IN 1 .. p.pronargs LOOP
            FOREACH kind IN ARRAY types LOOP
                arguments := p.given;
                arguments[place] := kind;
                -- Every other polymorphic argument gets the same type.
                arguments := ARRAY(SELECT CASE WHEN a LIKE 'any%%' OR a = '"any"' THEN kind ELSE a END
                                     FROM unnest(arguments) WITH ORDINALITY AS x(a, n) ORDER BY n);
                BEGIN
                    EXECUTE format('CREATE FUNCTION public.%%I(%%s) RETURNS %%s %%s', p.proname,
                                   array_to_string(arguments, ', '), CASE WHEN p.proretset THEN 'SETOF' ELSE '' END,
                                   CASE WHEN p.result LIKE 'any%%' OR p.result IN ('internal', 'record')
                                        THEN rtrim(kind, '[]') ELSE p.result END) || body;
                EXCEPTION WHEN OTHERS THEN NULL;  -- the same for another of that name
                END;
            END LOOP;
        END LOOP;
    END LOOP;
END $plant$
"""


async def plant(connection: asyncpg.Connection) -> None:
    """Create them all in schema `public`, as the connection's user."""
    lists = {"types": TYPES, "comparing": COMPARING, "computing": COMPUTING, "called": CALLED}
    written = {name: "ARRAY[" + ", ".join(f"'{item}'" for item in items) + "]" for name, items in lists.items()}
    await connection.execute("SET check_function_bodies = off")
    await connection.execute(PLANT % written)


async def sprung(connection: asyncpg.Connection) -> bool:
    """Whether one of them has run, also if its error went unseen."""
    return bool(await connection.fetchval("SELECT is_called FROM public.sprung"))
