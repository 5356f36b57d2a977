# CozeTest - groups of nodes for TAP tests of cozesync.
#
# A node is a PostgreSQL::Test::Cluster with cozesync preloaded; a group is
# formed with the statements that users type.  Nothing here sleeps: what takes
# time is polled for or waited for in the server.
#
# Debug points and rule switches exist in test builds only (COZE_TESTING).

package CozeTest;

use strict;
use warnings;
use Exporter 'import';
use File::Temp;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
    new_node new_group new_pair form_group join_node node_dsn
    wait_sync wait_quiet poll_until digest digests same_rows rows_of conflicts_of
    debug_stop debug_go wait_stopped debug_rule background
    exec_all sql_error restart_node crash_node log_is_found
);

our $timeout = $PostgreSQL::Test::Utils::timeout_default;

# A server that does not start fails its own test; the harness would end all the others, too.
{
    no warnings 'redefine';
    *Test::Builder::BAIL_OUT = sub { my ($self, $reason) = @_; die "$reason\n" };
}

# Settings that make a test quick without changing what it shows.
our $conf = <<'CONF';
shared_preload_libraries = 'cozesync'
max_worker_processes = 32
max_connections = 60
shared_buffers = 16MB
cozesync.beat_interval = '100ms'
cozesync.retry_min = '50ms'
cozesync.retry_max = '500ms'
log_min_messages = info
CONF

# Start a server with the extension in database "postgres" (or dbname), in no
# group.  Options: conf (text appended to postgresql.conf), dbname.
sub new_node
{
    my ($name, %opt) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(extra => [ '--no-locale', '--encoding=UTF8' ]);
    $node->append_conf('postgresql.conf', $conf . ($opt{conf} // ''));
    $node->start;
    $node->safe_psql('postgres', "CREATE DATABASE $opt{dbname}") if $opt{dbname};
    $node->safe_psql($opt{dbname} // 'postgres', 'CREATE EXTENSION cozesync');
    return $node;
}

# How other nodes reach this one.
sub node_dsn
{
    my ($node, $dbname) = @_;
    return sprintf 'host=%s port=%s dbname=%s user=%s', $node->host, $node->port,
        $dbname // 'postgres', (getpwuid($<))[0];
}

# Let a node that is in no group join through a member; schema and rows come along.
# Options are join_group's: copy_schema, copy_data, direct_links, wait; and dbname.
sub join_node
{
    my ($node, $via, %opt) = @_;
    my $dbname = delete $opt{dbname} // 'postgres';
    my $more = join '', map { ", $_ => $opt{$_}" } sort keys %opt;
    $node->safe_psql($dbname, sprintf(
        q{CALL cozesync.join_group(node_name => '%s', dsn => '%s', via => '%s'%s)},
        $node->name, node_dsn($node, $dbname), node_dsn($via, $dbname), $more),
        timeout => $timeout);
    return $node;
}

# A group of running nodes, named as given.  Options:
#   nodes   names, default [qw(a b)]
#   schema  SQL run on the first node before anything is synced
#   tables  list of tables to sync; default: everything in schema public
#   setup   SQL run on the first node once its tables are synced, before others join
#   conf    text appended to every node's postgresql.conf
#   dbname  database, default postgres
# Returns the nodes in the order of their names.
sub new_group
{
    my (%opt) = @_;
    my @names = @{ $opt{nodes} // [qw(a b)] };
    my @nodes = map { new_node($_, conf => $opt{conf}, dbname => $opt{dbname}) } @names;
    return form_group(@nodes, \%opt);
}

# A group of running servers that have the extension and are in none, named as the
# servers.  The last argument has new_group's options.
sub form_group
{
    my %opt = %{ pop @_ };
    my @nodes = @_;
    my $db = $opt{dbname} // 'postgres';
    my $first = $nodes[0];

    $first->safe_psql($db, $opt{schema}) if $opt{schema};
    $first->safe_psql($db, sprintf(
        q{SELECT cozesync.create_group('g', node_name => '%s', dsn => '%s')},
        $first->name, node_dsn($first, $db)));
    if ($opt{tables})
    {
        $first->safe_psql($db, "SELECT cozesync.add_table('$_')") for @{ $opt{tables} };
    }
    else
    {
        $first->safe_psql($db, q{SELECT cozesync.add_schema('public')});
    }
    $first->safe_psql($db, $opt{setup}) if $opt{setup};
    join_node($_, $first, dbname => $db) for @nodes[ 1 .. $#nodes ];
    return @nodes;
}

sub new_pair
{
    return new_group(nodes => [qw(a b)], @_);
}

# Run the same SQL on several nodes, one after the other.
sub exec_all
{
    my ($sql, @nodes) = @_;
    $_->safe_psql('postgres', $sql) for @nodes;
    return;
}

# Poll until a query returns true ('t') or the given value.  A query that can never
# succeed fails at once.
sub poll_until
{
    my ($node, $sql, $expected, $dbname) = @_;
    my ($status, undef, $err) = $node->psql($dbname // 'postgres', $sql);
    if ($status && ($err // '') =~ /(column|relation|function) .*does not exist|syntax error/)
    {
        diag("$err\nwhile waiting on " . $node->name . " for: $sql");
        return 0;
    }
    my $ok = $node->poll_query_until($dbname // 'postgres', $sql, $expected // 't');
    diag("still waiting on " . $node->name . " for: $sql") unless $ok;
    return $ok;
}

# Everything committed on these nodes before the call is applied on all their peers.
# Twice round, since what one node applies may make another write (or forward).
sub wait_sync
{
    my (@nodes) = @_;
    my $db = 'postgres';
    $db = ${ shift @nodes } if ref $nodes[0] eq 'SCALAR';
    my $ok = 1;
    for my $node (@nodes)
    {
        my $done = $node->safe_psql($db,
            "SELECT cozesync.wait_for_sync(interval '$timeout seconds')");
        next if $done eq 't';
        $ok = 0;
        diag($node->name . " is not in sync:\n" . $node->safe_psql($db,
            'SELECT source, target, state, lag_transactions, last_error FROM cozesync.links'));
    }
    return $ok;
}

# All nodes hold the same vector and nothing is under way.  A database may be given
# first, as for wait_sync: wait_quiet(\$dbname, $a, $b).
sub wait_quiet
{
    my (@nodes) = @_;
    wait_sync(@nodes) or return 0;
    my $db = ref $nodes[0] eq 'SCALAR' ? ${ shift @nodes } : 'postgres';
    my $vector = $nodes[0]->safe_psql($db, 'SELECT cozesync.vector()');
    for my $node (@nodes[ 1 .. $#nodes ])
    {
        my $held = $node->safe_psql($db,
            "SELECT cozesync.wait_for_vector('$vector', interval '$timeout seconds')");
        return 0 if $held ne 't';
    }
    return 1;
}

# One line for the contents of each table, whatever the order of its rows: the
# number of rows and a digest of their sorted text.  Types show their full
# precision, and rows sort bytewise, so that settings of the database do not matter.
sub digests
{
    my ($node, $tables, $dbname) = @_;
    my $sql = q{
        SET extra_float_digits = 3; SET datestyle = 'ISO'; SET timezone = 'UTC';
        SET intervalstyle = 'postgres'; SET bytea_output = 'hex';};
    $sql .= qq{
        SELECT count(*) || ' rows, ' ||
               md5(coalesce(string_agg(r, E'\n' ORDER BY r COLLATE "C"), ''))
          FROM (SELECT t::text AS r FROM $_ t) s;} for @$tables;
    return split /\n/, $node->safe_psql($dbname // 'postgres', $sql);
}

sub digest
{
    my ($node, $table, $dbname) = @_;
    return (digests($node, [$table], $dbname))[0];
}

sub rows_of
{
    my ($node, $table, $dbname) = @_;
    return $node->safe_psql($dbname // 'postgres',
        qq{SELECT t::text FROM $table t ORDER BY t::text COLLATE "C"});
}

# One assertion: these nodes hold the same rows in each of these tables.
# same_rows([$a, $b], ['t', 's.u'], 'name')
sub same_rows
{
    my ($nodes, $tables, $name, $dbname) = @_;
    my ($first, @others) = @$nodes;
    my @want = digests($first, $tables, $dbname);
    my @differ;
    for my $node (@others)
    {
        my @got = digests($node, $tables, $dbname);
        for my $i (grep { $got[$_] ne $want[$_] } 0 .. $#want)
        {
            push @differ, sprintf('%s: %s has %s, %s has %s', $tables->[$i],
                $first->name, $want[$i], $node->name, $got[$i]);
            push @differ, _difference($first, $node, $tables->[$i], $dbname);
        }
    }
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok(!@differ, $name // 'nodes hold the same rows: ' . join(' ', @$tables))
        or diag(join "\n", @differ);
    return !@differ;
}

# The first rows that only one of two nodes has.
sub _difference
{
    my ($one, $other, $table, $dbname) = @_;
    my %rows = map { $_ => 1 } split /\n/, rows_of($one, $table, $dbname);
    my @only_other = grep { !delete $rows{$_} } split /\n/, rows_of($other, $table, $dbname);
    my @only_one = sort keys %rows;
    my @said;
    push @said, map { '  only ' . $one->name . ": $_" } @only_one[ 0 .. ($#only_one < 9 ? $#only_one : 9) ];
    push @said, map { '  only ' . $other->name . ": $_" } @only_other[ 0 .. ($#only_other < 9 ? $#only_other : 9) ];
    return @said;
}

# The conflict log as the same lines on every node: what names a conflict, and
# what became of it.
sub conflicts_of
{
    my ($node, $dbname) = @_;
    return $node->safe_psql($dbname // 'postgres', q{
        SELECT relation, key, conflict_type, policy
          FROM cozesync.conflicts
         ORDER BY relation::text COLLATE "C", key::text COLLATE "C", conflict_type});
}

# Make whoever comes by a debug point stop there, until debug_go; or, with only_first,
# the first one only; who is all, sessions or workers.
sub debug_stop
{
    my ($node, $point, $dbname, $only_first, $who) = @_;
    $node->safe_psql($dbname // 'postgres', sprintf(
        q{SELECT cozesync.debug_stop('%s', %s, '%s')}, $point, $only_first ? 'true' : 'false', $who // 'all'));
    return;
}

sub debug_go
{
    my ($node, $point, $dbname) = @_;
    $node->safe_psql($dbname // 'postgres', "SELECT cozesync.debug_go('$point')");
    return;
}

# Wait until somebody stands at the point.
sub wait_stopped
{
    my ($node, $point, $dbname) = @_;
    return poll_until($node, "SELECT cozesync.debug_waiting('$point')", 't', $dbname);
}

# Take a rule out (off => 1) or put it back, to show that a test needs it.
sub debug_rule
{
    my ($node, $rule, $off, $dbname) = @_;
    $node->safe_psql($dbname // 'postgres', sprintf(
        q{SELECT cozesync.debug_rule('%s', %s)}, $rule, $off ? 'true' : 'false'));
    return;
}

# Each own entry that lies in the log is found there.  A segment may be emptied between the two
# looks at it, so that another try tells.
sub log_is_found
{
    my ($node, $dbname) = @_;
    return poll_until($node, 'SELECT count(*) = 0 FROM (SELECT l.hlc FROM (' .
        join(' UNION ALL ', map { "SELECT origin, hlc FROM cozesync.log_$_" } 1 .. 8) .
        ') l JOIN cozesync.local_node n USING (origin)
        EXCEPT SELECT cozesync.time_hlc(hlc) FROM cozesync.entries() WHERE origin = cozesync.node_name()) x', 't', $dbname);
}

# Start SQL in a session of its own without waiting for its end.  Returns an
# object with finish(), which waits and returns (exit status, output, errors).
sub background
{
    my ($node, $sql, $dbname) = @_;
    my ($out, $err) = ('', '');
    # from a file: psql would read a pipe only while somebody pumps
    my $file = File::Temp->new;
    print $file $sql;
    $file->flush;
    my $run = IPC::Run::start(
        [ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1',
            '-d', $node->connstr($dbname // 'postgres'), '-f', $file->filename ],
        '<', \undef, '>', \$out, '2>', \$err,
        IPC::Run::timeout($timeout));
    return bless { run => $run, file => $file, out => \$out, err => \$err },
        'CozeTest::Background';
}

# What a statement that must fail says: SQLSTATE, message, detail and hint.
sub sql_error
{
    my ($node, $sql, $dbname) = @_;
    my ($status, $out, $err) = $node->psql($dbname // 'postgres', $sql,
        extra_params => [ '-v', 'VERBOSITY=verbose' ]);
    return $status ? $err : '';
}

sub restart_node
{
    my ($node) = @_;
    $node->restart;
    return;
}

# Lose what was not flushed, as a power failure would, and come back.
sub crash_node
{
    my ($node) = @_;
    $node->stop('immediate');
    $node->start;
    return;
}

package CozeTest::Background;

use strict;
use warnings;

sub finish
{
    my ($self) = @_;
    $self->{run}->finish;
    chomp(my $out = ${ $self->{out} });
    return ($self->{run}->result(0), $out, ${ $self->{err} });
}

1;
