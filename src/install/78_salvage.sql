-- What a node that was dropped had not yet sent.

-- Up to where other members hold what this node has written, as far as it knows: the last of its
-- entries that one of theirs has seen.
CREATE FUNCTION cozesync.sent_upto() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT greatest((SELECT max((e.seen ->> m.node_name)::timestamptz) FROM cozesync.entries() AS e
                     WHERE e.origin <> m.node_name),
                    (SELECT cozesync.hlc_time(b.hlc) FROM cozesync.base AS b WHERE b.origin = m.origin))
    FROM cozesync.member AS m JOIN cozesync.local_node AS n USING (origin);
$$;
COMMENT ON FUNCTION cozesync.sent_upto() IS 'up to where other members hold what this node has written, as far as it knows';

-- All that is later.  Some of it may have arrived without this node having heard of it.
CREATE FUNCTION cozesync.unsent_changes(OUT origin text, OUT hlc timestamptz, OUT xid bigint, OUT relation text,
    OUT operation text, OUT key jsonb, OUT old_row jsonb, OUT new_row jsonb)
RETURNS SETOF record
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.origin, c.hlc, c.xid, c.relation, c.operation, c.key, c.old_row, c.new_row
    FROM cozesync.member AS m JOIN cozesync.local_node AS n USING (origin)
    CROSS JOIN LATERAL cozesync.changes(cozesync.sent_upto(), m.node_name) AS c;
$$;
COMMENT ON FUNCTION cozesync.unsent_changes() IS 'what this node has written and, as far as it knows, no other member holds';

-- The same, for a node that has left, was dropped or cannot go on, until it joins again; and
-- what a former incarnation of a member had not sent, until purge_salvage().
CREATE FUNCTION cozesync.salvage(OUT origin text, OUT hlc timestamptz, OUT xid bigint, OUT relation text,
    OUT operation text, OUT key jsonb, OUT old_row jsonb, OUT new_row jsonb)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    node cozesync.local_node;
BEGIN
    RETURN QUERY SELECT u.origin, u.hlc, u.xid, u.relation, u.operation, u.key, u.old_row, u.new_row
        FROM cozesync.unsent AS u ORDER BY u.id;
    SELECT * INTO node FROM cozesync.local_node;
    IF node.origin IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this database has not been a member of a group';
    ELSIF node.state <> 'left' AND cozesync.is_member() AND cozesync.links_closed() IS NULL THEN
        IF EXISTS (SELECT FROM cozesync.unsent) THEN
            RETURN;
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this node is a member of its group',
            DETAIL = 'What it has not sent yet is on its way.',
            HINT = 'cozesync.changes() shows the change log of a member.';
    END IF;
    RETURN QUERY SELECT c.* FROM cozesync.unsent_changes() AS c;
END
$$;
COMMENT ON FUNCTION cozesync.salvage() IS 'on a node that was dropped, or goes on as a new incarnation: what it had not yet sent';
-- It shows rows of every synced table.
REVOKE ALL ON FUNCTION cozesync.salvage(), cozesync.unsent_changes(), cozesync.sent_upto() FROM PUBLIC;
