-- Tables under sync.

-- Why a table cannot be synced, and the way out; NULL if it can.
CREATE FUNCTION cozesync.why_not_syncable(relation regclass, OUT reason text, OUT hint text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c pg_class;
    schema_name text;
    leaf text;
BEGIN
    SELECT * INTO c FROM pg_class AS x WHERE x.oid = why_not_syncable.relation;
    SELECT nspname INTO schema_name FROM pg_namespace AS x WHERE x.oid = c.relnamespace;

    IF c.relkind = 'f' THEN
        reason := 'It is a foreign table.';
    ELSIF c.relkind NOT IN ('r', 'p') THEN
        reason := 'It is not a table.';
    ELSIF schema_name IN ('pg_catalog', 'information_schema', 'pg_toast') THEN
        reason := 'It is a system table.';
    ELSIF schema_name = 'cozesync' OR EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') THEN
        reason := 'It belongs to an extension.';
    ELSIF c.relpersistence = 't' THEN
        reason := 'It is a temporary table.';
    ELSIF c.relpersistence = 'u' THEN
        reason := 'It is an unlogged table, which a crash empties.';
        hint := 'Make it a logged table with ALTER TABLE ... SET LOGGED.';
    ELSIF c.relispartition THEN
        reason := 'It is a partition.';
        hint := format('Put the partitioned table %s under sync; its partitions come along.',
                       (SELECT a.relid::regclass FROM pg_partition_ancestors(c.oid) AS a
                        WHERE a.relid NOT IN (SELECT p.oid FROM pg_class AS p WHERE p.relispartition)));
    ELSIF c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = c.oid) THEN
        reason := 'Other tables inherit from it.';
    ELSIF EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid) THEN
        reason := 'It inherits from another table.';
    ELSIF EXISTS (SELECT FROM pg_constraint AS k WHERE k.conrelid = c.oid AND k.contype = 'x') THEN
        reason := 'It has an exclusion constraint.';
    ELSIF EXISTS (SELECT FROM pg_constraint AS k WHERE k.conrelid = c.oid
                  AND to_jsonb(k) ->> 'conperiod' = 'true' AND k.contype IN ('p', 'u')) THEN
        reason := 'It has a key WITHOUT OVERLAPS.';
    ELSIF cozesync.key_index(c.oid) IS NULL THEN
        SELECT x.reason, x.hint INTO why_not_syncable.reason, why_not_syncable.hint
        FROM cozesync.why_no_key(c.oid) AS x;
    ELSE
        -- Every table that holds its rows.
        SELECT CASE WHEN l.relkind = 'f' THEN format('Its partition %s is a foreign table.', l.oid::regclass)
                    WHEN l.relpersistence <> 'p' THEN format('Its partition %s is not a logged table.', l.oid::regclass)
                    WHEN l.oid = c.oid THEN format('Its access method is %s, not heap.', quote_ident(a.amname))
                    ELSE format('The access method of its partition %s is %s, not heap.', l.oid::regclass, quote_ident(a.amname))
               END INTO reason
        FROM pg_partition_tree(c.oid) AS t
        JOIN pg_class AS l ON l.oid = t.relid
        LEFT JOIN pg_am AS a ON a.oid = l.relam
        WHERE t.isleaf AND l.relkind <> 'p'
          AND (l.relkind = 'f' OR l.relpersistence <> 'p' OR a.amname <> 'heap')
        ORDER BY l.oid::regclass::text LIMIT 1;
        IF reason IS NULL AND c.relkind = 'r' THEN
            SELECT format('Its access method is %s, not heap.', quote_ident(a.amname)) INTO reason
            FROM pg_am AS a WHERE a.oid = c.relam AND a.amname <> 'heap';
        END IF;
        -- Two rows with one value of it may be in different partitions on another node, or
        -- there may be no such index there: it cannot be heeded when conflicts are decided.
        IF reason IS NULL AND c.relkind = 'p' THEN
            SELECT format('Unique index %s is on partition %s only.', i.indexrelid::regclass, i.indrelid::regclass),
                   'Drop the index, or create it on the partitioned table.'
            INTO reason, hint
            FROM pg_partition_tree(c.oid) AS t
            JOIN pg_index AS i ON i.indrelid = t.relid AND i.indisunique
            WHERE t.relid <> c.oid
              AND NOT EXISTS (SELECT FROM pg_index AS r
                              WHERE r.indexrelid = pg_partition_root(i.indexrelid) AND r.indrelid = c.oid)
              -- one that contains the key is never violated before the key is
              AND NOT (SELECT array_agg(a.attname) FROM pg_attribute AS a
                       WHERE a.attrelid = cozesync.key_index(c.oid)) <@
                      (SELECT array_agg(a.attname) FROM pg_attribute AS a WHERE a.attrelid = i.indexrelid)
            ORDER BY i.indexrelid::regclass::text LIMIT 1;
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.why_not_syncable(regclass) IS 'why a table cannot be put under sync, or NULL';

-- The table has no usable key: what is wrong with what it has.
CREATE FUNCTION cozesync.why_no_key(relation regclass, OUT reason text, OUT hint text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deferrable_key text;
BEGIN
    SELECT i.indexrelid::regclass::text INTO deferrable_key FROM pg_index AS i
    WHERE i.indrelid = relation AND i.indisunique AND NOT i.indimmediate
    ORDER BY i.indisprimary DESC LIMIT 1;
    IF FOUND THEN
        reason := format('Its key %s is deferrable.', deferrable_key);
        hint := 'Define the key as NOT DEFERRABLE.';
    ELSE
        reason := 'It has no primary key, no replica identity index, and no unique index that could stand in: '
            'immediate, valid, not partial, without expressions, over NOT NULL columns.';
        hint := 'Add a primary key, or choose an index with ALTER TABLE ... REPLICA IDENTITY USING INDEX.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.why_no_key(regclass) IS 'why no index of a table can be its key';

-- Key by which capture names rows.
CREATE FUNCTION cozesync.key_index(relation regclass) RETURNS regclass
AS 'MODULE_PATHNAME', 'coze_group_key_index'
LANGUAGE C STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.key_index(regclass) IS 'the index whose columns are the key of a table under sync, or NULL';

CREATE FUNCTION cozesync.check_syncable(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    why record;
BEGIN
    SELECT * INTO why FROM cozesync.why_not_syncable(relation);
    IF why.hint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('cannot put table "%s" under sync', relation), DETAIL = why.reason, HINT = why.hint;
    ELSIF why.reason IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('cannot put table "%s" under sync', relation), DETAIL = why.reason;
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_syncable(regclass) IS 'an error if a table cannot be put under sync';

-- A table as another node compares it with its own: columns with their types, key, and
-- whether there are rows.  Columns "exists" false: there is no such table.
CREATE FUNCTION cozesync.describe_table(schema_name text, table_name text,
    OUT "exists" boolean, OUT columns jsonb, OUT key text[], OUT is_empty boolean, OUT is_synced boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
DECLARE
    relation regclass := cozesync.find_relation(schema_name, table_name);
BEGIN
    "exists" := relation IS NOT NULL AND (SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = relation);
    IF NOT "exists" THEN
        RETURN;
    END IF;
    SELECT jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) INTO columns
    FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    SELECT array_agg(a.attname::text ORDER BY k.n) INTO key
    FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n), pg_attribute AS a
    WHERE i.indexrelid = cozesync.key_index(relation) AND k.n <= i.indnkeyatts
      AND a.attrelid = relation AND a.attnum = k.attnum;
    EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s)', relation) INTO is_empty;
    is_synced := EXISTS (SELECT FROM cozesync.synced_table AS s
                         WHERE s.schema_name = describe_table.schema_name AND s.table_name = describe_table.table_name);
END
$$;
COMMENT ON FUNCTION cozesync.describe_table(text, text) IS 'columns, types and key of a table, as other nodes compare them';

-- Raises invalid_table_definition if a table is not the same on two nodes.
CREATE FUNCTION cozesync.check_same_table(schema_name text, table_name text,
    here_node text, here jsonb, there_node text, there jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    shown text := format('%I.%I', schema_name, table_name);
    difference text;
BEGIN
    IF NOT (here ->> 'exists')::boolean OR NOT (there ->> 'exists')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('table %s does not exist on node "%s"', shown,
                             CASE WHEN (here ->> 'exists')::boolean THEN there_node ELSE here_node END),
            HINT = 'Create it there first, with the same columns.';
    END IF;
    SELECT string_agg(
        CASE WHEN h.value IS NULL THEN format('Column %I (%s) is missing on node "%s".', t.key, t.value, here_node)
             WHEN t.value IS NULL THEN format('Column %I (%s) is missing on node "%s".', h.key, h.value, there_node)
             ELSE format('Column %I is %s on node "%s" and %s on node "%s".', h.key, h.value, here_node, t.value, there_node)
        END, ' ' ORDER BY coalesce(h.key, t.key)) INTO difference
    FROM jsonb_each_text(here -> 'columns') AS h FULL JOIN jsonb_each_text(there -> 'columns') AS t ON h.key = t.key
    WHERE h.value IS DISTINCT FROM t.value;
    IF difference IS NULL AND here -> 'key' IS DISTINCT FROM there -> 'key' THEN
        difference := format('Its key is %s on node "%s" and %s on node "%s".',
                             here -> 'key', here_node, there -> 'key', there_node);
    END IF;
    IF difference IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_table_definition',
            MESSAGE = format('table %s is not the same on all nodes', shown), DETAIL = difference;
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_same_table(text, text, text, jsonb, text, jsonb) IS 'an error if a table is not the same on two nodes';

-- What describe_table says on another node, as JSON.  An error if it cannot be asked.
CREATE FUNCTION cozesync.describe_table_on(node_name text, dsn text, schema_name text, table_name text)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'coze_group_describe_table_on'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.describe_table_on(text, text, text, text) IS 'a table as another node has it';

-- Every other member is asked whether a table can be added.
CREATE FUNCTION cozesync.check_table_everywhere(schema_name text, table_name text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    own text := (SELECT m.node_name FROM cozesync.member AS m JOIN cozesync.local_node USING (origin));
    here jsonb := (SELECT to_jsonb(d) FROM cozesync.describe_table(
        check_table_everywhere.schema_name, check_table_everywhere.table_name) AS d);
    there jsonb;
    other record;
BEGIN
    FOR other IN
        SELECT m.node_name, m.dsn FROM cozesync.member AS m
        WHERE m.dropped_at IS NULL AND m.origin <> (SELECT n.origin FROM cozesync.local_node AS n)
        ORDER BY m.node_name
    LOOP
        IF other.dsn IS NULL THEN
            RAISE WARNING 'node "%" cannot be asked whether it has table %, since it has no DSN', other.node_name,
                format('%I.%I', check_table_everywhere.schema_name, check_table_everywhere.table_name);
            CONTINUE;
        END IF;
        there := cozesync.describe_table_on(other.node_name, other.dsn,
            check_table_everywhere.schema_name, check_table_everywhere.table_name);
        PERFORM cozesync.check_same_table(check_table_everywhere.schema_name, check_table_everywhere.table_name,
            own, here, other.node_name, there);
        IF NOT (there ->> 'is_empty')::boolean AND NOT (there ->> 'is_synced')::boolean THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('table %s is not empty on node "%s"', format('%I.%I',
                    check_table_everywhere.schema_name, check_table_everywhere.table_name), other.node_name),
                DETAIL = 'The rows of the node on which a table is added travel to all others.',
                HINT = 'Empty it there, or add it on that node and empty it here.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.check_table_everywhere(text, text) IS 'an error unless every other member has the same table, empty';

-- The rows of a table become inserts in the entry of this transaction.
CREATE FUNCTION cozesync.capture_rows(relation regclass) RETURNS bigint
AS 'MODULE_PATHNAME', 'coze_group_capture_rows'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.capture_rows(regclass) IS 'captures the rows of a table as if they were inserted now';

-- A table was put under sync or taken off it: here or, through the log, anywhere.
CREATE FUNCTION cozesync.on_synced_table() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass;
    was_captured boolean;
    has_rows boolean;
BEGIN
    IF NOT cozesync.is_member() THEN
        RETURN NULL;
    END IF;
    PERFORM cozesync.group_changed();
    IF TG_OP = 'DELETE' THEN
        relation := cozesync.find_relation(OLD.schema_name, OLD.table_name);
        IF relation IS NOT NULL THEN
            PERFORM cozesync.detach_capture(relation);
        END IF;
        RETURN NULL;
    END IF;
    relation := cozesync.find_relation(NEW.schema_name, NEW.table_name);
    IF relation IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('table %I.%I was put under sync and does not exist here', NEW.schema_name, NEW.table_name),
            HINT = 'Create it with the columns that it has on the other nodes.';
    END IF;
    PERFORM cozesync.check_syncable(relation);
    was_captured := cozesync.has_trigger(relation, '!cozesync_capture', false);
    PERFORM cozesync.attach_capture(relation);
    -- Rows that nobody else has: somebody wrote them after this node was asked.
    IF NOT was_captured AND current_setting('session_replication_role') = 'replica' THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', relation) INTO has_rows;
        IF has_rows THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('table %s was put under sync on another node and is not empty here', relation),
                HINT = 'Move its rows elsewhere, empty the table, and insert them again once it is under sync here.';
        END IF;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cozesync.on_synced_table() IS 'adds or takes off capture where a table is put under sync or taken off it';

CREATE TRIGGER on_synced_table AFTER INSERT OR UPDATE OR DELETE ON cozesync.synced_table
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_synced_table();
ALTER TABLE cozesync.synced_table ENABLE ALWAYS TRIGGER on_synced_table;

-- Put a table under sync on every node; returns how many were added (0: it was there).
-- Its rows travel to the other members, in the transaction that adds it.
CREATE FUNCTION cozesync.add_table(relation regclass)
RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    found_schema text;
    found_table text;
BEGIN
    PERFORM cozesync.check_may_change_group();
    IF add_table.relation IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'the table must not be NULL';
    END IF;
    SELECT n.nspname, c.relname INTO found_schema, found_table
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = add_table.relation;
    -- Nobody is admitted to the group between the look at its members and the end.
    LOCK TABLE cozesync.synced_table IN SHARE UPDATE EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM cozesync.synced_table AS s
               WHERE s.schema_name = found_schema AND s.table_name = found_table) THEN
        RETURN 0;
    END IF;
    PERFORM cozesync.check_syncable(add_table.relation);
    PERFORM cozesync.check_table_everywhere(found_schema, found_table);
    INSERT INTO cozesync.synced_table (schema_name, table_name) VALUES (found_schema, found_table);
    -- (A snapshot taken before the lock may not show who was admitted since.)
    IF (SELECT count(*) FROM cozesync.member AS m WHERE m.dropped_at IS NULL) > 1
        OR current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM cozesync.capture_rows(add_table.relation);
    END IF;
    RETURN 1;
END
$$;
COMMENT ON FUNCTION cozesync.add_table(regclass) IS 'put a table under sync on every node; returns how many were added';

-- Put all tables of a schema under sync; those that cannot be are skipped with a WARNING.
CREATE FUNCTION cozesync.add_schema(schema regnamespace)
RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    candidate record;
    why record;
    added integer := 0;
BEGIN
    PERFORM cozesync.check_may_change_group();
    IF add_schema.schema IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'the schema must not be NULL';
    END IF;
    FOR candidate IN
        SELECT c.oid::regclass AS relation FROM pg_class AS c
        WHERE c.relnamespace = add_schema.schema AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition
        ORDER BY c.relname
    LOOP
        SELECT * INTO why FROM cozesync.why_not_syncable(candidate.relation);
        IF why.reason IS NULL THEN
            added := added + cozesync.add_table(candidate.relation);
        ELSE
            RAISE WARNING USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('table "%s" is not put under sync', candidate.relation), DETAIL = why.reason,
                HINT = coalesce(why.hint, 'It is left out; the other tables of the schema are not affected.');
        END IF;
    END LOOP;
    RETURN added;
END
$$;
COMMENT ON FUNCTION cozesync.add_schema(regnamespace) IS 'put all tables of a schema under sync on every node; returns how many were added';

-- Take a table off sync on every node; it stays as it is.  Returns how many (0: it was not
-- under sync).
CREATE FUNCTION cozesync.remove_table(relation regclass)
RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    removed integer;
BEGIN
    PERFORM cozesync.check_may_change_group();
    IF relation IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'the table must not be NULL';
    END IF;
    DELETE FROM cozesync.synced_table AS s USING pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = relation AND s.schema_name = n.nspname AND s.table_name = c.relname;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;
COMMENT ON FUNCTION cozesync.remove_table(regclass) IS 'take a table off sync on every node; returns how many were';

-- Only who manages the group may change what it syncs.
REVOKE ALL ON FUNCTION cozesync.why_not_syncable(regclass), cozesync.why_no_key(regclass),
    cozesync.key_index(regclass), cozesync.check_syncable(regclass), cozesync.describe_table(text, text),
    cozesync.check_same_table(text, text, text, jsonb, text, jsonb),
    cozesync.describe_table_on(text, text, text, text), cozesync.check_table_everywhere(text, text),
    cozesync.capture_rows(regclass), cozesync.on_synced_table(), cozesync.add_table(regclass),
    cozesync.add_schema(regnamespace), cozesync.remove_table(regclass) FROM PUBLIC;
