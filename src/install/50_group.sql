-- Making a group, leaving it, dropping members.  What the group consists of is rows of
-- synced tables (cozesync.member and others); triggers on them bring this node in line
-- wherever such a row is written: by a call here or by the applier.

-- Small steps in C.

-- Raises object_not_in_prerequisite_state with the line to add to postgresql.conf.
CREATE FUNCTION cozesync.check_preloaded() RETURNS void
AS 'MODULE_PATHNAME', 'coze_group_check_preloaded'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.check_preloaded() IS 'an error unless the library is in shared_preload_libraries';

-- Called first by what takes a DSN.
CREATE FUNCTION cozesync.hide_statement(shown text) RETURNS void
AS 'MODULE_PATHNAME', 'coze_group_hide'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.hide_statement(text) IS 'keeps the statement at hand, which may hold a password, out of error logs and pg_stat_activity';

-- 63 strong random bits, never 0.
CREATE FUNCTION cozesync.new_origin() RETURNS bigint
AS 'MODULE_PATHNAME', 'coze_group_new_origin'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.new_origin() IS 'a random id for an incarnation of a node';

CREATE FUNCTION cozesync.wire_version() RETURNS integer
AS 'MODULE_PATHNAME', 'coze_group_wire_version'
LANGUAGE C IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.wire_version() IS 'version of the protocol that this library speaks';

CREATE FUNCTION cozesync.node_changed() RETURNS void
AS 'MODULE_PATHNAME', 'coze_group_node_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.node_changed() IS 'all processes read anew who this node is, once the transaction has ended';

CREATE FUNCTION cozesync.group_changed() RETURNS void
AS 'MODULE_PATHNAME', 'coze_group_facts_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.group_changed() IS 'all processes read the facts of the group anew, once the transaction has committed';

-- Raises invalid_parameter_value if the text is no connection string or leads to another
-- database; a WARNING if it leads nowhere now.  No part of the text is shown.
CREATE FUNCTION cozesync.check_own_dsn(dsn text) RETURNS void
AS 'MODULE_PATHNAME', 'coze_group_check_own_dsn'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.check_own_dsn(text) IS 'an error unless the connection string leads to this database';

-- Execute one statement on another node; NULL and a WARNING if it cannot be reached or
-- refuses.
CREATE FUNCTION cozesync.tell_node(node_name text, dsn text, command text, argument text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_group_tell_node'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.tell_node(text, text, text, text) IS 'execute a statement on another node; false with a WARNING where that fails';

-- Who we are.

CREATE FUNCTION cozesync.is_member() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM cozesync.local_node AS n
        WHERE n.state <> 'left'
          AND n.system_identifier = (SELECT c.system_identifier FROM pg_control_system() AS c)
          AND n.database_oid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()));
$$;
COMMENT ON FUNCTION cozesync.is_member() IS 'is this database a member of a group, and itself rather than a copy of one?';

-- Raises object_not_in_prerequisite_state unless group facts may be changed from here.
CREATE FUNCTION cozesync.check_may_change_group() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    node cozesync.local_node;
BEGIN
    PERFORM cozesync.check_preloaded();
    SELECT * INTO node FROM cozesync.local_node;
    IF NOT FOUND OR node.state = 'left' THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this database is not a member of a group',
            HINT = 'Use cozesync.create_group() on the first node, cozesync.join_group() on all others.';
    ELSIF NOT cozesync.is_member() THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('this database is a copy of a node of group "%s"', node.group_name),
            DETAIL = 'The system identifier or the database is not the one that the node was made in.',
            HINT = 'After a move of the node use cozesync.confirm_identity(), to make the copy independent cozesync.leave_group().';
    ELSIF node.state = 'joining' THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this node is still joining its group',
            HINT = 'See cozesync.join_progress, or make the change on another member.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_may_change_group() IS 'an error unless group facts may be changed from this node';

-- Raises object_not_in_prerequisite_state if there is a group already.
CREATE FUNCTION cozesync.check_no_group() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    node cozesync.local_node;
BEGIN
    SELECT * INTO node FROM cozesync.local_node WHERE state <> 'left';
    IF FOUND AND cozesync.is_member() THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('this database is already a member of group "%s"', node.group_name),
            HINT = 'Leave that group with cozesync.leave_group() first.';
    ELSIF FOUND THEN
        PERFORM cozesync.check_may_change_group();
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_no_group() IS 'an error if this database is in a group';

CREATE FUNCTION cozesync.check_given(value text, what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(btrim(value), '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('the %s must not be empty', what);
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_given(text, text) IS 'an error if a text is NULL or blank';

-- Facts of the group that are synced themselves.

CREATE FUNCTION cozesync.fact_tables() RETURNS SETOF regclass
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    VALUES ('cozesync.member'::regclass), ('cozesync.dropped_member'), ('cozesync.link_mode'), ('cozesync.synced_table'),
           ('cozesync.rule'), ('cozesync.settlement'), ('cozesync.spread_sequence'), ('cozesync.ddl'),
           ('cozesync.skipped_entry');
$$;
COMMENT ON FUNCTION cozesync.fact_tables() IS 'tables of the extension that are synced like those of users';

CREATE FUNCTION cozesync.find_relation(schema_name text, table_name text) RETURNS regclass
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid::regclass FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = schema_name AND c.relname = table_name;
$$;
COMMENT ON FUNCTION cozesync.find_relation(text, text) IS 'the relation of that name, or NULL';

CREATE FUNCTION cozesync.on_fact() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF cozesync.is_member() THEN
        PERFORM cozesync.group_changed();
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cozesync.on_fact() IS 'tells the processes of this node that facts of the group have changed';

-- A member was added or changed.  What was written by who had not heard that it was dropped
-- must not bring it back.
CREATE FUNCTION cozesync.before_member() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.dropped_at := coalesce((SELECT d.dropped_at FROM cozesync.dropped_member AS d WHERE d.origin = NEW.origin),
                               NEW.dropped_at);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION cozesync.before_member() IS 'a member that was dropped stays so';

CREATE TRIGGER before_member BEFORE INSERT OR UPDATE ON cozesync.member
    FOR EACH ROW EXECUTE FUNCTION cozesync.before_member();
ALTER TABLE cozesync.member ENABLE ALWAYS TRIGGER before_member;
CREATE TRIGGER on_member AFTER INSERT OR UPDATE OR DELETE ON cozesync.member
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_fact();
ALTER TABLE cozesync.member ENABLE ALWAYS TRIGGER on_member;

-- The entry of this transaction, or the one that is being applied, drops a member.
CREATE FUNCTION cozesync.note_drop(origin bigint) RETURNS void
AS 'MODULE_PATHNAME', 'coze_group_note_drop'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.note_drop(bigint) IS 'remembers by which entry a member was dropped';

-- A member was dropped, or has left.  Who reads that of itself, has left.
CREATE FUNCTION cozesync.on_dropped_member() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT cozesync.is_member() THEN
        RETURN NULL;
    END IF;
    PERFORM cozesync.note_drop(NEW.origin);
    UPDATE cozesync.member SET dropped_at = NEW.dropped_at WHERE origin = NEW.origin;
    PERFORM cozesync.group_changed();
    UPDATE cozesync.local_node SET state = 'left' WHERE origin = NEW.origin;
    IF FOUND THEN
        RAISE WARNING USING MESSAGE = 'this node was dropped from its group',
            HINT = 'Use cozesync.join_group() to join again.';
        PERFORM cozesync.node_changed();
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cozesync.on_dropped_member() IS 'brings this node in line when a member was dropped';

CREATE TRIGGER on_dropped_member AFTER INSERT OR UPDATE ON cozesync.dropped_member
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_dropped_member();
ALTER TABLE cozesync.dropped_member ENABLE ALWAYS TRIGGER on_dropped_member;
CREATE TRIGGER on_link_mode AFTER INSERT OR UPDATE OR DELETE ON cozesync.link_mode
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_fact();
ALTER TABLE cozesync.link_mode ENABLE ALWAYS TRIGGER on_link_mode;
CREATE TRIGGER on_rule AFTER INSERT OR UPDATE OR DELETE ON cozesync.rule
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_fact();
ALTER TABLE cozesync.rule ENABLE ALWAYS TRIGGER on_rule;

-- Beginning and ending.

-- No table is captured any more.
CREATE FUNCTION cozesync.detach_all() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM cozesync.detach_capture(relation)
    FROM (SELECT cozesync.find_relation(schema_name, table_name) AS relation
          FROM (SELECT schema_name, table_name FROM cozesync.synced_table
                UNION SELECT schema_name, table_name FROM cozesync.join_table) AS t
          ORDER BY schema_name, table_name) AS found
    WHERE relation IS NOT NULL;
    PERFORM cozesync.detach_capture(relation) FROM cozesync.fact_tables() AS relation;
END
$$;
COMMENT ON FUNCTION cozesync.detach_all() IS 'takes capture off all tables';

-- This database is no node any more.  What DDL it has executed, and what it has not sent, stays:
-- that is of its tables.
CREATE FUNCTION cozesync.forget_node() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM cozesync.detach_all();
    -- First, so that the triggers on the facts keep still.
    DELETE FROM cozesync.local_node;
    DELETE FROM cozesync.join_run;
    DELETE FROM cozesync.join_table;
    DELETE FROM cozesync.paused_link;
    DELETE FROM cozesync.member;
    DELETE FROM cozesync.dropped_member;
    DELETE FROM cozesync.drop_entry;
    DELETE FROM cozesync.link_mode;
    DELETE FROM cozesync.synced_table;
    DELETE FROM cozesync.rule;
    DELETE FROM cozesync.settlement;
    DELETE FROM cozesync.spread_sequence;
    DELETE FROM cozesync.skipped_entry;
    DELETE FROM cozesync.skip_todo;
    DELETE FROM cozesync.dropped_column;
    DELETE FROM cozesync.conflict;
    DELETE FROM cozesync.base_record;
    TRUNCATE cozesync.base, cozesync.descriptor,
        cozesync.log_1, cozesync.log_2, cozesync.log_3, cozesync.log_4,
        cozesync.log_5, cozesync.log_6, cozesync.log_7, cozesync.log_8,
        cozesync.chunk_1, cozesync.chunk_2, cozesync.chunk_3, cozesync.chunk_4,
        cozesync.chunk_5, cozesync.chunk_6, cozesync.chunk_7, cozesync.chunk_8;
    PERFORM cozesync.node_changed();
END
$$;
COMMENT ON FUNCTION cozesync.forget_node() IS 'forgets which node of its group this database was';

-- Nothing is left of the group that this database was in.
CREATE FUNCTION cozesync.forget_group() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM cozesync.forget_node();
    DELETE FROM cozesync.ddl;
    DELETE FROM cozesync.unsent;
END
$$;
COMMENT ON FUNCTION cozesync.forget_group() IS 'forgets the group that this database was in; tables of users stay';

-- This database becomes a node.  The facts are captured from here on.
CREATE FUNCTION cozesync.become_node(origin bigint, group_id uuid, group_name text, state text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO cozesync.local_node (origin, group_id, group_name, state, system_identifier, database_oid)
    SELECT become_node.origin, become_node.group_id, become_node.group_name, become_node.state,
           c.system_identifier, d.oid
    FROM pg_control_system() AS c, pg_database AS d WHERE d.datname = current_database();
    PERFORM cozesync.node_changed();
    PERFORM cozesync.attach_capture(relation) FROM cozesync.fact_tables() AS relation;
END
$$;
COMMENT ON FUNCTION cozesync.become_node(bigint, uuid, text, text) IS 'writes down who this database is, and captures the facts of the group';

-- Make this database the first node of a new group.  dsn NULL: no other node can reach
-- it, it makes its own connections.
CREATE FUNCTION cozesync.create_group(group_name text, node_name text, dsn text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    own bigint;
BEGIN
    PERFORM cozesync.hide_statement('SELECT cozesync.create_group(...)');
    PERFORM cozesync.check_preloaded();
    LOCK TABLE cozesync.local_node IN SHARE ROW EXCLUSIVE MODE;
    PERFORM cozesync.check_no_group();
    PERFORM cozesync.check_given(create_group.group_name, 'group name');
    PERFORM cozesync.check_given(create_group.node_name, 'node name');
    PERFORM cozesync.check_own_dsn(create_group.dsn);
    PERFORM cozesync.forget_group();
    own := cozesync.new_origin();
    PERFORM cozesync.become_node(own, gen_random_uuid(), create_group.group_name, 'ready');
    INSERT INTO cozesync.member (origin, node_name, dsn, system_identifier, database_oid, server_version,
                                 ready_at, slot)
    SELECT own, create_group.node_name, create_group.dsn, n.system_identifier, n.database_oid::bigint,
           current_setting('server_version_num')::integer, clock_timestamp(), 0
    FROM cozesync.local_node AS n;
END
$$;
COMMENT ON FUNCTION cozesync.create_group(text, text, text) IS 'make this database the first node of a new group';

-- Remove a member that will not come back.  Its rows stay; what it had not sent is lost
-- to the group.  No error if it is gone already.
CREATE FUNCTION cozesync.drop_node(node_name text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    found_member cozesync.member;
BEGIN
    PERFORM cozesync.check_may_change_group();
    PERFORM cozesync.check_given(drop_node.node_name, 'node name');
    SELECT * INTO found_member FROM cozesync.member AS m
    WHERE m.node_name = drop_node.node_name
    ORDER BY m.dropped_at IS NULL DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('there is no node "%s" in this group', drop_node.node_name),
            HINT = 'See cozesync.nodes.';
    ELSIF found_member.dropped_at IS NOT NULL THEN
        RAISE NOTICE 'node "%" is not in this group any more', drop_node.node_name;
        RETURN;
    ELSIF found_member.origin = (SELECT n.origin FROM cozesync.local_node AS n) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('node "%s" is this node', drop_node.node_name),
            HINT = 'Use cozesync.leave_group().';
    END IF;
    -- No more of its entries is applied here between what this entry will have seen and its
    -- end; see applier.c.
    LOCK TABLE cozesync.dropped_member IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO cozesync.dropped_member (origin) VALUES (found_member.origin) ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION cozesync.drop_node(text) IS 'remove a member that will not come back';

-- The same, called by a node that leaves, with the rights of a peer.
CREATE FUNCTION cozesync.let_go(node_name text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT cozesync.drop_node(node_name);
$$;
COMMENT ON FUNCTION cozesync.let_go(text) IS 'remove a member that leaves; called by the node';

-- What a leaving node does for the others: send what it has, let one of them drop it.
CREATE FUNCTION cozesync.say_goodbye() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own text := (SELECT m.node_name FROM cozesync.member AS m JOIN cozesync.local_node USING (origin)
                 UNION SELECT r.node_name FROM cozesync.join_run AS r LIMIT 1);
    other record;
    told boolean;
BEGIN
    IF (SELECT state FROM cozesync.local_node) = 'ready' AND NOT cozesync.wait_for_sync('30 s') THEN
        RAISE WARNING USING MESSAGE = 'not everything that was written here has reached all other nodes',
            HINT = 'See cozesync.salvage().';
    END IF;
    FOR other IN
        SELECT m.node_name, m.dsn FROM cozesync.member AS m
        WHERE m.dropped_at IS NULL AND m.dsn IS NOT NULL
          AND m.origin <> (SELECT origin FROM cozesync.local_node)
        UNION ALL
        SELECT 'via', r.via FROM cozesync.join_run AS r WHERE r.phase <> 'catching up'
    LOOP
        told := cozesync.tell_node(other.node_name, other.dsn, 'SELECT cozesync.let_go($1)', own);
        EXIT WHEN told;
    END LOOP;
    IF told IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'no other member could be told that this node leaves',
            HINT = format('On one of them execute: SELECT cozesync.drop_node(%L)', own);
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.say_goodbye() IS 'sends what this node has and lets another member drop it';

-- Leave the group.  Tables stay as they are and are captured no more.  No error on a
-- database that is in no group.
CREATE FUNCTION cozesync.leave_group()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    node cozesync.local_node;
    alone boolean;
BEGIN
    PERFORM cozesync.check_preloaded();
    -- Locks first, so that nothing is written behind our back between sending and leaving.
    SELECT * INTO node FROM cozesync.local_node FOR UPDATE;
    IF NOT FOUND OR node.state = 'left' THEN
        PERFORM cozesync.detach_all();
        RAISE NOTICE 'this database is not a member of a group';
        RETURN;
    END IF;
    alone := NOT EXISTS (SELECT FROM cozesync.member AS m WHERE m.dropped_at IS NULL AND m.origin <> node.origin)
        AND NOT EXISTS (SELECT FROM cozesync.join_run);
    PERFORM cozesync.detach_all();
    -- Neither a copy nor one that has lost transactions speaks for the node that the others know.
    IF NOT cozesync.is_member() OR cozesync.links_closed() IS NOT NULL THEN
        RAISE NOTICE USING MESSAGE = 'the other members are not told that this database leaves',
            DETAIL = 'It is not, or not any more, the node that they know.';
    ELSIF NOT alone THEN
        PERFORM cozesync.say_goodbye();
    END IF;
    UPDATE cozesync.local_node SET state = 'left';
    DELETE FROM cozesync.join_run;
    DELETE FROM cozesync.join_table;
    PERFORM cozesync.group_changed();
    PERFORM cozesync.node_changed();
END
$$;
COMMENT ON FUNCTION cozesync.leave_group() IS 'leave the group; tables stay as they are';

-- What another node wants to know before it has anything to do with this one.
CREATE FUNCTION cozesync.about(OUT extension_version text, OUT origin bigint, OUT state text,
    OUT group_id uuid, OUT group_name text, OUT node_name text, OUT encoding text,
    OUT server_version integer, OUT nodes integer, OUT wire_version integer)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT e.extversion, n.origin,
           CASE WHEN n.origin IS NULL THEN 'none' WHEN n.state <> 'left' AND NOT cozesync.is_member() THEN 'copy'
                ELSE n.state END,
           n.group_id, n.group_name,
           (SELECT m.node_name FROM cozesync.member AS m WHERE m.origin = n.origin),
           getdatabaseencoding(), current_setting('server_version_num')::integer,
           (SELECT count(*)::integer FROM cozesync.member AS m WHERE m.dropped_at IS NULL),
           cozesync.wire_version()
    FROM pg_extension AS e LEFT JOIN cozesync.local_node AS n ON true
    WHERE e.extname = 'cozesync';
$$;
COMMENT ON FUNCTION cozesync.about() IS 'what another node wants to know of this one';

-- Only who manages the group may change it or look into it; other nodes are granted what
-- they need with cozesync.grant_to_peer().
REVOKE ALL ON FUNCTION cozesync.check_preloaded(), cozesync.hide_statement(text), cozesync.new_origin(), cozesync.wire_version(), cozesync.node_changed(),
    cozesync.group_changed(), cozesync.check_own_dsn(text), cozesync.tell_node(text, text, text, text),
    cozesync.is_member(), cozesync.check_may_change_group(), cozesync.check_no_group(),
    cozesync.check_given(text, text), cozesync.fact_tables(), cozesync.find_relation(text, text),
    cozesync.on_fact(), cozesync.before_member(), cozesync.note_drop(bigint), cozesync.on_dropped_member(), cozesync.detach_all(), cozesync.forget_node(), cozesync.forget_group(),
    cozesync.become_node(bigint, uuid, text, text), cozesync.create_group(text, text, text),
    cozesync.drop_node(text), cozesync.let_go(text), cozesync.say_goodbye(), cozesync.leave_group(), cozesync.about()
    FROM PUBLIC;
