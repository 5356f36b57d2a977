-- DDL on every node.

-- Is this process applying an entry of another node?
CREATE FUNCTION cozesync.is_applying() RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_ddl_is_applying'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.is_applying() IS 'is this process applying an entry of another node?';

-- Is it executing what execute_everywhere() was called with, here or elsewhere?
CREATE FUNCTION cozesync.in_ddl() RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_ddl_in_progress'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.in_ddl() IS 'is DDL being executed that is executed on every node?';

-- Execute DDL of another node as its caller.
CREATE FUNCTION cozesync.run_ddl(role_name text, names text[], settings text[], sql text) RETURNS void
AS 'MODULE_PATHNAME', 'coze_ddl_run'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cozesync.run_ddl(text, text[], text[], text) IS 'executes DDL of another node with the rights and settings of who called execute_everywhere() there';

CREATE FUNCTION cozesync.run_ddl_row(d cozesync.ddl) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT cozesync.run_ddl(d.role_name, coalesce(array_agg(s.key ORDER BY s.key), '{}'),
                            coalesce(array_agg(s.value ORDER BY s.key), '{}'), d.sql)
    FROM jsonb_each_text(d.settings) AS s;
$$;
COMMENT ON FUNCTION cozesync.run_ddl_row(cozesync.ddl) IS 'executes DDL of another node';

CREATE FUNCTION cozesync.on_ddl() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF cozesync.is_applying() THEN
        PERFORM cozesync.run_ddl_row(NEW);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cozesync.on_ddl() IS 'executes DDL where its entry is applied';

CREATE TRIGGER on_ddl AFTER INSERT ON cozesync.ddl
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_ddl();
ALTER TABLE cozesync.ddl ENABLE ALWAYS TRIGGER on_ddl;

-- Rows of other nodes may still carry a column that was dropped.  Runs with the rights of the
-- extension's owner, since its tables are closed to who drops columns.
CREATE FUNCTION cozesync.on_drop()
RETURNS event_trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF cozesync.in_ddl() THEN
        INSERT INTO cozesync.dropped_column (schema_name, table_name, column_name)
        SELECT o.address_names[1], o.address_names[2], o.address_names[3]
        FROM pg_event_trigger_dropped_objects() AS o
        JOIN cozesync.synced_table AS s ON s.schema_name = o.address_names[1] AND s.table_name = o.address_names[2]
        WHERE o.object_type = 'table column'
        ON CONFLICT DO NOTHING;
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.on_drop() IS 'event trigger: notes columns that are dropped on every node';

CREATE EVENT TRIGGER cozesync_on_drop ON sql_drop EXECUTE FUNCTION cozesync.on_drop();
COMMENT ON EVENT TRIGGER cozesync_on_drop IS 'notes columns that are dropped on every node';

-- Synced tables are known by name on every node.
CREATE FUNCTION cozesync.check_synced_tables_exist() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing record;
BEGIN
    SELECT s.schema_name, s.table_name INTO missing FROM cozesync.synced_table AS s
    WHERE cozesync.find_relation(s.schema_name, s.table_name) IS NULL
    ORDER BY 1, 2 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table %I.%I is under sync and must not be dropped or renamed', missing.schema_name, missing.table_name),
            HINT = 'Take it off with cozesync.remove_table() first.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_synced_tables_exist() IS 'an error if a table under sync does not exist here';

-- Execute SQL here and, in its place in the stream, on every node, as the role that called
-- this and with the settings that the meaning of SQL depends on.  No setting is pinned: it runs
-- the caller's SQL.  For DDL: what changes rows of synced tables is refused, since that
-- reaches every node by itself, and so is what the server refuses in a transaction.
CREATE FUNCTION cozesync.execute_everywhere(sql text) RETURNS void
AS 'MODULE_PATHNAME', 'coze_execute_everywhere'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cozesync.execute_everywhere(text) IS 'execute DDL here and, in its place in the stream, on every node';

-- Who may call it can do on every node what he can do here.
REVOKE ALL ON FUNCTION cozesync.is_applying(), cozesync.in_ddl(), cozesync.run_ddl(text, text[], text[], text),
    cozesync.run_ddl_row(cozesync.ddl), cozesync.on_ddl(), cozesync.on_drop(), cozesync.check_synced_tables_exist(),
    cozesync.execute_everywhere(text) FROM PUBLIC;
