# ApplyTest - databases of one server as nodes without links.
#
# Entries go from node to node when, and in the order in which, a test says so:
# carry() reads an origin's entries off one database's log and puts them into the
# queue of another's applier.  Test builds only (COZE_TESTING).

package ApplyTest;

use strict;
use warnings;
use Exporter 'import';
use CozeTest;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
    apply_server sql everywhere held carry carry_all carry_no_wait carry_upto wait_applied rows same
    conflicts rule_off rule_on stop_at go_at stopped_at in_background
);

our ($server, @nodes, %number);

# One server, a database a node, all of them members that reach nobody.
sub apply_server
{
    my ($name, @dbs) = @_;
    @nodes = @dbs;
    $server = PostgreSQL::Test::Cluster->new($name);
    $server->init(extra => [ '--no-locale', '--encoding=UTF8' ]);
    $server->append_conf('postgresql.conf', $CozeTest::conf . qq{
        cozesync.beat_interval = '1h'
        cozesync.max_databases = 16
        autovacuum = off
        });
    $server->start;
    my $n = 0;
    $number{$_} = ++$n for @dbs;
    for my $db (@dbs)
    {
        $server->safe_psql('postgres', "CREATE DATABASE $db");
        $server->safe_psql($db, q{
            CREATE EXTENSION cozesync;
            CREATE FUNCTION debug_batch(bigint, bigint, bigint) RETURNS bytea
                AS 'cozesync', 'coze_debug_batch' LANGUAGE C;
            CREATE FUNCTION debug_put(bigint, bool, bytea) RETURNS text
                AS 'cozesync', 'coze_debug_put' LANGUAGE C;});
        $server->safe_psql($db, qq{
            SELECT cozesync.become_node($number{$db}, '11111111-1111-1111-1111-111111111111', 'g', 'ready');
            ALTER TABLE cozesync.member DISABLE TRIGGER "!cozesync_capture";
            INSERT INTO cozesync.member (origin, node_name, system_identifier, database_oid,
                                         server_version, ready_at, slot)
            SELECT i, (string_to_array('@dbs', ' '))[i], i, i, 150000, now(), i
              FROM generate_series(1, $n) i;
            ALTER TABLE cozesync.member ENABLE TRIGGER "!cozesync_capture";});
    }
    return $server;
}

sub sql
{
    my ($db, $sql) = @_;
    return $server->safe_psql($db, $sql);
}

# Make a table on every node and put it under sync.
sub everywhere
{
    my ($table, $ddl) = @_;
    sql($_, $ddl) for @nodes;
    my ($schema, $name) = $table =~ /\./ ? split(/\./, $table) : ('public', $table);
    sql($nodes[0], "INSERT INTO cozesync.synced_table VALUES ('$schema', '$name')");
    carry_all();
    return;
}

my $heads = join ' UNION ALL ', map { "SELECT origin, hlc FROM cozesync.log_$_" } 1 .. 8;

# The last entry of an origin that a node holds.
sub held
{
    my ($db, $origin) = @_;
    return sql($db, "SELECT coalesce(max(hlc), 0) FROM (
        $heads UNION ALL SELECT origin, hlc FROM cozesync.base) x WHERE origin = $number{$origin}");
}

# Queue what node $to lacks of the entries of $origin (default: its own) that $from has, all
# of them or up to one.
sub carry_no_wait
{
    my ($from, $to, $origin, $upto) = @_;
    $origin //= $from;
    my $after = held($to, $origin);
    $upto //= held($from, $origin);
    return $upto if $upto <= $after;
    my $batch = sql($from, "SELECT encode(debug_batch($number{$origin}, $after, $upto), 'hex')");
    my $said = sql($to, "SELECT debug_put($number{$from}, true, decode('$batch', 'hex'))");
    die "not queued: $said" if $said ne 'taken';
    return $upto;
}

sub wait_applied
{
    my ($db, $origin, $upto, $seconds) = @_;
    my $end = time + ($seconds // $PostgreSQL::Test::Utils::timeout_default);
    while (held($db, $origin) < $upto)
    {
        return 0 if time > $end;
        select undef, undef, undef, 0.02;
    }
    return 1;
}

sub carry
{
    my ($from, $to, $origin, $seconds) = @_;
    my $upto = carry_no_wait($from, $to, $origin);
    return wait_applied($to, $origin // $from, $upto, $seconds);
}

# Own entries up to one.
sub carry_upto
{
    my ($from, $to, $upto) = @_;
    return wait_applied($to, $from, carry_no_wait($from, $to, $from, $upto));
}

# Everything everywhere.  What waits for its causes comes to an end when they are there, too.
sub carry_all
{
    my ($seconds) = @_;
    my (@late, $ok);
    for my $from (@nodes)
    {
        for my $to (grep { $_ ne $from } @nodes)
        {
            my $upto = carry_no_wait($from, $to);
            push @late, [ $to, $from, $upto ] if !wait_applied($to, $from, $upto, $seconds // 2);
        }
    }
    $ok = 1;
    $ok &&= wait_applied(@$_, $seconds) for @late;
    return $ok;
}

sub rows
{
    my ($db, $table) = @_;
    return sql($db, "SELECT coalesce(string_agg(t::text, ' ' ORDER BY t::text), '') FROM $table t");
}

# The rows on all nodes, if they are the same; else what each has.
sub same
{
    my ($table) = @_;
    my %seen = map { rows($_, $table) => 1 } @nodes;
    return (keys %seen)[0] if keys %seen == 1;
    return join ' | ', map { "$_: " . rows($_, $table) } @nodes;
}

# The conflict log of a table: type, key, who lost to whom.
sub conflicts
{
    my ($db, $table) = @_;
    return sql($db, "SELECT coalesce(string_agg(format('%s %s %s>%s', conflict_type, key, loser_origin,
        decided_origin), ', ' ORDER BY loser_hlc, decided_hlc, key::text), '')
        FROM cozesync.conflict WHERE table_name = '$table'");
}

sub rule_off { debug_rule($server, $_[0], 1, $nodes[0]); return; }
sub rule_on { debug_rule($server, $_[0], 0, $nodes[0]); return; }
sub stop_at { sql($nodes[0], "SELECT cozesync.debug_stop('$_[0]', true)"); return; }
sub go_at { debug_go($server, $_[0], $nodes[0]); return; }
sub stopped_at { return wait_stopped($server, $_[0], $nodes[0]); }
sub in_background { return background($server, "$_[1];\n", $_[0]); }

1;
