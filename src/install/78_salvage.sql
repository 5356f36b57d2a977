-- What a node that was dropped had not yet sent.

-- Changes of this node that, as far as it knows, no other member holds: all later than the last
-- that an entry of another member has seen.  Some may have arrived without this node having
-- heard of it.  For a node that has left or was dropped, until it joins again.
CREATE FUNCTION cozesync.salvage(OUT origin text, OUT hlc timestamptz, OUT xid bigint, OUT relation text,
    OUT operation text, OUT key jsonb, OUT old_row jsonb, OUT new_row jsonb)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    node cozesync.local_node;
    own text;
    known timestamptz;
BEGIN
    SELECT * INTO node FROM cozesync.local_node;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this database has not been a member of a group';
    ELSIF node.state <> 'left' AND cozesync.is_member() AND cozesync.links_closed() IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this node is a member of its group',
            DETAIL = 'What it has not sent yet is on its way.',
            HINT = 'cozesync.changes() shows the change log of a member.';
    END IF;
    SELECT m.node_name INTO own FROM cozesync.member AS m WHERE m.origin = node.origin;
    SELECT greatest(max((e.seen ->> own)::timestamptz),
                    (SELECT cozesync.hlc_time(b.hlc) FROM cozesync.base AS b WHERE b.origin = node.origin))
    INTO known FROM cozesync.entries() AS e WHERE e.origin <> own;
    RETURN QUERY SELECT c.origin, c.hlc, c.xid, c.relation, c.operation, c.key, c.old_row, c.new_row
    FROM cozesync.changes(known, own) AS c;
END
$$;
COMMENT ON FUNCTION cozesync.salvage() IS 'on a node that was dropped: what it had not yet sent';
-- It shows rows of every synced table.
REVOKE ALL ON FUNCTION cozesync.salvage() FROM PUBLIC;
