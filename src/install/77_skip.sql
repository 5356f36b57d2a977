-- The way out of an entry that cannot be applied.
--
-- A node whose stream is stopped at the entry says that it is to have no effect.  That
-- travels in an entry which has not seen the one in question, so it reaches whoever is stopped
-- there, too: for them the entry is empty.  Others have applied it already, its author above
-- all.  So when the node has got past it, it tells all of them how the rows are
-- here that the entry touched, in an entry that has seen it: an ordinary write, later than
-- the skipped one on every node, which replaces whatever had come of that.

-- Present: the row at a place.  Absent: no row with the key columns of the given one.
CREATE FUNCTION cozesync.capture_present(leaf regclass, place tid) RETURNS void
AS 'MODULE_PATHNAME', 'coze_group_capture_present'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.capture_present(regclass, tid) IS 'captures a row as it is';

CREATE FUNCTION cozesync.capture_absent(leaf regclass, key_row record) RETURNS void
AS 'MODULE_PATHNAME', 'coze_group_capture_absent'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.capture_absent(regclass, record) IS 'captures that there is no row with a key';

-- Capture how a row is here, for everybody.
CREATE FUNCTION cozesync.capture_key(relation regclass, key jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_row record;
    -- (of a table without partitions, itself)
    leaf regclass := coalesce((SELECT p.relid FROM pg_partition_tree(relation) AS p WHERE p.isleaf ORDER BY p.relid LIMIT 1),
                              (SELECT c.oid FROM pg_class AS c WHERE c.oid = relation AND c.relkind = 'r'));
BEGIN
    EXECUTE format('SELECT t.tableoid::regclass AS leaf, t.ctid AS place FROM %s AS t WHERE %s', relation,
                   cozesync.key_condition(relation, key)) INTO found_row USING key;
    IF found_row.leaf IS NOT NULL THEN
        PERFORM cozesync.capture_present(found_row.leaf, found_row.place);
    ELSIF leaf IS NOT NULL THEN
        EXECUTE format('SELECT cozesync.capture_absent($1, jsonb_populate_record(NULL::%s, $2))', leaf) USING leaf, key;
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.capture_key(regclass, jsonb) IS 'captures how the row with a key is here';

-- The changes of one entry that is held here, those of the extension's own tables among them.
CREATE FUNCTION cozesync.entry_changes(origin bigint, hlc bigint,
    OUT author text, OUT at timestamptz, OUT xid bigint, OUT relation text, OUT operation text,
    OUT key jsonb, OUT old_row jsonb, OUT new_row jsonb)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'coze_entry_changes'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.entry_changes(bigint, bigint) IS 'the changes of one entry of the log';

-- What is lost goes to the conflict log.
CREATE FUNCTION cozesync.record_skipped(origin bigint, hlc bigint) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO cozesync.conflict (schema_name, table_name, key, conflict_type, policy, outcome, reason, loser_origin, loser_hlc,
        decided_origin, decided_hlc, remote_origin, remote_hlc, remote_row)
    SELECT DISTINCT ON (c.relation, c.key) n[1], n[2], coalesce(c.key, '{}'),
        CASE c.operation WHEN 'insert' THEN 'insert_exists' WHEN 'delete' THEN 'delete_updated'
                         WHEN 'truncate' THEN 'truncate_write' ELSE 'update_update' END,
        'skip_entry', 'kept local', format('the transaction was skipped by %s', s.skipped_by), record_skipped.origin, record_skipped.hlc,
        record_skipped.origin, record_skipped.hlc, record_skipped.origin, record_skipped.hlc, c.new_row
    FROM cozesync.entry_changes(origin, hlc) WITH ORDINALITY AS c, parse_ident(c.relation) AS n, cozesync.skipped_entry AS s
    WHERE n[1] <> 'cozesync' AND s.origin = record_skipped.origin AND s.hlc = record_skipped.hlc AND c.operation <> 'superseded'
    ORDER BY c.relation, c.key, c.ordinality DESC
    ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION cozesync.record_skipped(bigint, bigint) IS 'records in the conflict log what a skipped entry would have done';

-- Tell everybody how the rows are here that an entry touched.
CREATE FUNCTION cozesync.tell_skipped(origin bigint, hlc bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    touched record;
    relation regclass;
BEGIN
    FOR touched IN
        SELECT c.relation AS name, bool_or(c.operation = 'truncate') AS truncated,
               array_agg(DISTINCT k.key) FILTER (WHERE k.key IS NOT NULL) AS keys
        FROM cozesync.entry_changes(origin, hlc) AS c,
             LATERAL (VALUES (c.key),
                 (CASE WHEN c.old_row ?& (SELECT array_agg(o) FROM jsonb_object_keys(c.key) AS o)
                       THEN (SELECT jsonb_object_agg(o, c.old_row -> o) FROM jsonb_object_keys(c.key) AS o) END)) AS k (key)
        GROUP BY c.relation ORDER BY c.relation
    LOOP
        relation := to_regclass(touched.name);
        CONTINUE WHEN relation IS NULL OR NOT cozesync.has_trigger(relation, '!cozesync_capture', false);
        -- Nobody writes between the look and the end.
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', relation);
        IF touched.truncated THEN
            PERFORM cozesync.capture_rows(relation);
        END IF;
        PERFORM cozesync.capture_key(relation, k) FROM unnest(touched.keys) AS k;
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.tell_skipped(bigint, bigint) IS 'captures how the rows are here that an entry touched';

-- By the applier, in a transaction of its own that is captured: what is to be done about
-- skipped entries that are held here by now.
CREATE FUNCTION cozesync.settle_skipped() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    todo cozesync.skip_todo;
BEGIN
    FOR todo IN SELECT * FROM cozesync.skip_todo ORDER BY hlc, origin LOOP
        CONTINUE WHEN NOT cozesync.holds(todo.origin, todo.hlc);
        PERFORM cozesync.record_skipped(todo.origin, todo.hlc);
        IF todo.tells THEN
            PERFORM cozesync.tell_skipped(todo.origin, todo.hlc);
        END IF;
        DELETE FROM cozesync.skip_todo AS t WHERE t.origin = todo.origin AND t.hlc = todo.hlc;
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.settle_skipped() IS 'records skipped entries, and tells others how their rows are here';

-- Does this node hold the entries of an origin up to there, applied and visible?
CREATE FUNCTION cozesync.holds(origin bigint, hlc bigint) RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_group_holds'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.holds(bigint, bigint) IS 'does this node hold an entry?';

CREATE FUNCTION cozesync.time_hlc(hlc timestamptz) RETURNS bigint
AS 'MODULE_PATHNAME', 'coze_group_time_hlc'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.time_hlc(timestamptz) IS 'a time as the hlc that it is';

CREATE FUNCTION cozesync.on_skipped_entry() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO cozesync.skip_todo (origin, hlc, tells)
    SELECT NEW.origin, NEW.hlc, n.origin = NEW.skipped_on FROM cozesync.local_node AS n
    ON CONFLICT DO NOTHING;
    IF cozesync.is_member() THEN
        PERFORM cozesync.group_changed();
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cozesync.on_skipped_entry() IS 'lets the applier know that an entry has no effect';

CREATE TRIGGER on_skipped_entry AFTER INSERT OR UPDATE ON cozesync.skipped_entry
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_skipped_entry();
ALTER TABLE cozesync.skipped_entry ENABLE ALWAYS TRIGGER on_skipped_entry;

-- The transaction at which a stream of this node is stopped shall have no effect, on any
-- node: what it changed is as this node has it, and goes to the conflict log.  origin is the
-- name of the node that wrote it, or its number, as cozesync.links shows both.
CREATE FUNCTION cozesync.skip_entry(origin text, hlc timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    author cozesync.member;
    version bigint;
BEGIN
    PERFORM cozesync.check_may_change_group();
    IF skip_entry.origin IS NULL OR skip_entry.hlc IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'origin and hlc must not be NULL';
    END IF;
    SELECT * INTO author FROM cozesync.member AS m
    WHERE skip_entry.origin IN (m.node_name, m.origin::text) ORDER BY m.dropped_at IS NULL DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('there is no node "%s" in this group', skip_entry.origin), HINT = 'See cozesync.nodes.';
    END IF;
    version := cozesync.time_hlc(skip_entry.hlc);
    IF cozesync.holds(author.origin, version) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('this node has applied the transaction of node "%s" at %s', author.node_name, skip_entry.hlc),
            HINT = 'Call skip_entry() on the node whose stream is stopped there.';
    ELSIF NOT EXISTS (SELECT FROM cozesync.link_stats() AS s
                      WHERE s.stopped_origin = author.origin AND s.stopped_hlc = skip_entry.hlc) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('no stream of this node is stopped at a transaction of node "%s" at %s', author.node_name, skip_entry.hlc),
            HINT = 'See stopped_at in cozesync.links.';
    END IF;
    INSERT INTO cozesync.skipped_entry (origin, hlc, skipped_on, skipped_by)
    SELECT author.origin, version, n.origin, session_user FROM cozesync.local_node AS n
    ON CONFLICT DO NOTHING;
    PERFORM cozesync.retry();
END
$$;
COMMENT ON FUNCTION cozesync.skip_entry(text, timestamptz) IS 'let a transaction that cannot be applied have no effect, on every node';

-- Only who manages the group may set aside what others wrote.
REVOKE ALL ON FUNCTION cozesync.capture_present(regclass, tid), cozesync.capture_absent(regclass, record),
    cozesync.capture_key(regclass, jsonb), cozesync.entry_changes(bigint, bigint), cozesync.record_skipped(bigint, bigint),
    cozesync.tell_skipped(bigint, bigint), cozesync.settle_skipped(), cozesync.holds(bigint, bigint),
    cozesync.time_hlc(timestamptz), cozesync.on_skipped_entry(), cozesync.skip_entry(text, timestamptz) FROM PUBLIC;
