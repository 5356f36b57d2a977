-- Sequences behind serial and identity columns: a node draws numbers that no other draws.

CREATE FUNCTION cozesync.sequence_of(schema_name text, table_name text, column_name text) RETURNS regclass
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT x.oid::regclass
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped
    JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
        AND d.refobjsubid = a.attnum AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    JOIN pg_class AS x ON x.oid = d.objid AND x.relkind = 'S'
    WHERE n.nspname = sequence_of.schema_name AND c.relname = sequence_of.table_name
      AND a.attname = sequence_of.column_name
    ORDER BY x.oid LIMIT 1;
$$;
COMMENT ON FUNCTION cozesync.sequence_of(text, text, text) IS 'the sequence that a column owns, or NULL';

-- The least number that neither the sequence has drawn nor the column holds, at this node.
CREATE FUNCTION cozesync.next_number(schema_name text, table_name text, column_name text) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
DECLARE
    sequence regclass := cozesync.sequence_of(schema_name, table_name, column_name);
    drawn bigint;
    held bigint;
BEGIN
    IF sequence IS NULL THEN
        RETURN 1;
    END IF;
    EXECUTE format('SELECT last_value + is_called::integer FROM %s', sequence) INTO drawn;
    EXECUTE format('SELECT max(%I) FROM %I.%I', column_name, schema_name, table_name) INTO held;
    RETURN greatest(1, drawn, held + 1);
END
$$;
COMMENT ON FUNCTION cozesync.next_number(text, text, text) IS 'the least number that is not used for a column at this node';

-- Bring the sequence of a column in line with cozesync.spread_sequence.
CREATE FUNCTION cozesync.spread_here(schema_name text, table_name text, column_name text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sequence regclass := cozesync.sequence_of(schema_name, table_name, column_name);
    fact cozesync.spread_sequence;
    slot bigint;
    next bigint;
BEGIN
    SELECT * INTO fact FROM cozesync.spread_sequence AS s
    WHERE s.schema_name = spread_here.schema_name AND s.table_name = spread_here.table_name
      AND s.column_name = spread_here.column_name;
    SELECT m.slot INTO slot FROM cozesync.member AS m JOIN cozesync.local_node AS n USING (origin);
    IF sequence IS NULL OR fact IS NULL OR slot IS NULL THEN
        RETURN;
    END IF;
    -- Nobody draws a number between this and the end of the transaction.
    EXECUTE format('ALTER SEQUENCE %s INCREMENT BY %s', sequence, fact.max_nodes);
    next := greatest(fact.base, cozesync.next_number(schema_name, table_name, column_name));
    next := next + (slot - next % fact.max_nodes + fact.max_nodes) % fact.max_nodes;
    IF next > (SELECT q.seqmax FROM pg_sequence AS q WHERE q.seqrelid = sequence) THEN
        RAISE EXCEPTION USING ERRCODE = 'sequence_generator_limit_exceeded',
            MESSAGE = format('sequence %s has too few numbers left to spread it over %s nodes', sequence, fact.max_nodes),
            HINT = 'Give the column and its sequence a larger type.';
    END IF;
    PERFORM setval(sequence, next, false);
END
$$;
COMMENT ON FUNCTION cozesync.spread_here(text, text, text) IS 'lets the sequence of a column draw this node''s numbers';

CREATE FUNCTION cozesync.on_spread_sequence() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF cozesync.is_member() THEN
        PERFORM cozesync.spread_here(NEW.schema_name, NEW.table_name, NEW.column_name);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cozesync.on_spread_sequence() IS 'brings a sequence in line where it was spread';

CREATE TRIGGER on_spread_sequence AFTER INSERT OR UPDATE ON cozesync.spread_sequence
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_spread_sequence();
ALTER TABLE cozesync.spread_sequence ENABLE ALWAYS TRIGGER on_spread_sequence;

-- Does another member draw the same numbers as this node, which is about to become ready?  Nodes
-- that joined at the same time through different members may have been given one slot.
CREATE FUNCTION cozesync.shares_slot() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM cozesync.member AS own JOIN cozesync.local_node USING (origin)
                   JOIN cozesync.member AS m ON m.slot = own.slot AND m.origin <> own.origin AND m.dropped_at IS NULL);
$$;
COMMENT ON FUNCTION cozesync.shares_slot() IS 'was another member given the numbers that this node is to draw?';

-- On the member that a node joined through: another slot for it, one that nobody has.  It waits
-- again until all members have seen that; so of two that are given one slot, by members neither of
-- which knew of the other, each learns of it before it is ready.  Which one is left to chance, so
-- that they do not meet again.
CREATE FUNCTION cozesync.give_other_slot(origin bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    least_nodes integer := (SELECT min(q.max_nodes) FROM cozesync.spread_sequence AS q);
    found_slot integer;
BEGIN
    PERFORM cozesync.check_may_change_group();
    LOCK TABLE cozesync.dropped_member IN SHARE ROW EXCLUSIVE MODE;
    -- Numbers that a dropped node has drawn may still turn up: its slot is the last choice.
    SELECT s INTO found_slot
    FROM generate_series(0, coalesce(least_nodes, (SELECT count(*)::integer * 2 FROM cozesync.member) + 2) - 1) AS s
    WHERE NOT EXISTS (SELECT FROM cozesync.member AS m WHERE m.slot = s AND m.dropped_at IS NULL)
    ORDER BY EXISTS (SELECT FROM cozesync.member AS m WHERE m.slot = s), random() LIMIT 1;
    IF found_slot IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded',
            MESSAGE = format('sequences are spread over %s nodes and all of them are taken', least_nodes),
            HINT = 'Spread them over more nodes with cozesync.spread_sequences() on another member.';
    END IF;
    UPDATE cozesync.member AS m SET slot = found_slot
    WHERE m.origin = give_other_slot.origin AND m.dropped_at IS NULL AND m.ready_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = 'this database is not joining the group';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.give_other_slot(bigint) IS 'lets a node that joins draw other numbers; called by the node';

CREATE FUNCTION cozesync.on_slot() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.slot <> OLD.slot AND NEW.origin = (SELECT origin FROM cozesync.local_node) THEN
        PERFORM cozesync.spread_here(schema_name, table_name, column_name) FROM cozesync.spread_sequence;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cozesync.on_slot() IS 'brings all sequences in line when this node has got another slot';

CREATE TRIGGER on_slot AFTER UPDATE ON cozesync.member
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_slot();
ALTER TABLE cozesync.member ENABLE ALWAYS TRIGGER on_slot;

-- On a node that joins: the sequence goes on behind what the donor has drawn.
CREATE FUNCTION cozesync.advance_sequence(schema_name text, table_name text, column_name text, past bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sequence regclass := cozesync.sequence_of(schema_name, table_name, column_name);
BEGIN
    IF EXISTS (SELECT FROM cozesync.spread_sequence AS s
               WHERE s.schema_name = advance_sequence.schema_name AND s.table_name = advance_sequence.table_name
                 AND s.column_name = advance_sequence.column_name) THEN
        PERFORM cozesync.spread_here(schema_name, table_name, column_name);
    ELSIF sequence IS NOT NULL AND cozesync.next_number(schema_name, table_name, column_name) <= past THEN
        PERFORM setval(sequence, past);
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.advance_sequence(text, text, text, bigint) IS 'lets a sequence go on behind a number';

-- What next_number says on another node.
CREATE FUNCTION cozesync.next_number_on(node_name text, dsn text, schema_name text, table_name text, column_name text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'coze_group_next_number_on'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.next_number_on(text, text, text, text, text) IS 'the least number that is not used for a column at another node';

-- A number above all that any member has drawn, with room for what they draw until they
-- have heard.
CREATE FUNCTION cozesync.spread_base(schema_name text, table_name text, column_name text) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    room CONSTANT bigint := 10000;
    base bigint := cozesync.next_number(spread_base.schema_name, spread_base.table_name, spread_base.column_name);
    alone boolean := true;
    other record;
BEGIN
    FOR other IN
        SELECT m.node_name, m.dsn FROM cozesync.member AS m
        WHERE m.dropped_at IS NULL AND m.origin <> (SELECT n.origin FROM cozesync.local_node AS n)
    LOOP
        alone := false;
        IF other.dsn IS NULL THEN
            RAISE WARNING 'node "%" cannot be asked which numbers it has drawn, since it has no DSN', other.node_name;
        ELSE
            base := greatest(base, cozesync.next_number_on(other.node_name, other.dsn,
                spread_base.schema_name, spread_base.table_name, spread_base.column_name));
        END IF;
    END LOOP;
    RETURN base + CASE WHEN alone THEN 0 ELSE room END;
END
$$;
COMMENT ON FUNCTION cozesync.spread_base(text, text, text) IS 'a number above all that members have drawn for a column';

-- Let every node draw numbers of its own from the sequences behind serial and identity
-- columns, of one synced table or of all; returns how many sequences were changed.
CREATE FUNCTION cozesync.spread_sequences(relation regclass DEFAULT NULL, max_nodes integer DEFAULT 16)
RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    candidate record;
    changed integer := 0;
BEGIN
    PERFORM cozesync.check_may_change_group();
    IF spread_sequences.max_nodes IS NULL OR spread_sequences.max_nodes NOT BETWEEN 2 AND 1024 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'max_nodes must be between 2 and 1024';
    ELSIF spread_sequences.max_nodes <= (SELECT max(m.slot) FROM cozesync.member AS m WHERE m.dropped_at IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('the group needs numbers for more than %s nodes', spread_sequences.max_nodes);
    ELSIF spread_sequences.relation IS NOT NULL AND NOT EXISTS (
        SELECT FROM cozesync.synced_table AS s
        WHERE cozesync.find_relation(s.schema_name, s.table_name) = spread_sequences.relation) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table "%s" is not under sync', spread_sequences.relation),
            HINT = 'Use cozesync.add_table() first.';
    END IF;
    LOCK TABLE cozesync.spread_sequence IN SHARE UPDATE EXCLUSIVE MODE;
    FOR candidate IN
        SELECT s.schema_name, s.table_name, a.attname::text AS column_name, q.seqincrement, q.seqrelid::regclass AS sequence
        FROM cozesync.synced_table AS s
        JOIN pg_attribute AS a ON a.attrelid = cozesync.find_relation(s.schema_name, s.table_name)
            AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_sequence AS q ON q.seqrelid = cozesync.sequence_of(s.schema_name, s.table_name, a.attname)
        WHERE (spread_sequences.relation IS NULL OR a.attrelid = spread_sequences.relation)
          AND NOT EXISTS (
            SELECT FROM cozesync.spread_sequence AS done
            WHERE done.schema_name = s.schema_name AND done.table_name = s.table_name
              AND done.column_name = a.attname AND done.max_nodes = spread_sequences.max_nodes)
        ORDER BY s.schema_name, s.table_name, a.attnum
    LOOP
        IF candidate.seqincrement < 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
                MESSAGE = format('sequence %s counts downwards', candidate.sequence),
                HINT = 'Only ascending sequences can be spread.';
        END IF;
        INSERT INTO cozesync.spread_sequence AS f (schema_name, table_name, column_name, max_nodes, base)
        VALUES (candidate.schema_name, candidate.table_name, candidate.column_name, spread_sequences.max_nodes,
                cozesync.spread_base(candidate.schema_name, candidate.table_name, candidate.column_name))
        ON CONFLICT (schema_name, table_name, column_name)
            DO UPDATE SET max_nodes = excluded.max_nodes, base = excluded.base;
        changed := changed + 1;
    END LOOP;
    RETURN changed;
END
$$;
COMMENT ON FUNCTION cozesync.spread_sequences(regclass, integer) IS
    'let every node draw numbers of its own from the sequences of synced tables; returns how many were changed';

-- Only who manages the group may change sequences.
REVOKE ALL ON FUNCTION cozesync.sequence_of(text, text, text), cozesync.next_number(text, text, text),
    cozesync.spread_here(text, text, text), cozesync.on_spread_sequence(),
    cozesync.shares_slot(), cozesync.give_other_slot(bigint), cozesync.on_slot(), cozesync.advance_sequence(text, text, text, bigint), cozesync.next_number_on(text, text, text, text, text),
    cozesync.spread_base(text, text, text), cozesync.spread_sequences(regclass, integer) FROM PUBLIC;
