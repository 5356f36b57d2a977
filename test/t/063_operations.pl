# Every block of SQL in doc/operations.md does what it says, in its order, on the node that it names.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my %node = map { $_ => new_node($_, dbname => 'app') } qw(berlin tokyo osaka);
form_group(@node{qw(berlin tokyo)}, { dbname => 'app', schema => q{
    CREATE TABLE users (id serial PRIMARY KEY, name text);
    INSERT INTO users (name) SELECT 'user ' || g FROM generate_series(1, 100) g} });

my $path = ($ENV{TESTDIR} // '.') . '/doc/operations.md';
open my $doc, '<', $path or die "$path: $!";
my ($on, $sql, $line, @blocks) = ('berlin');
while (<$doc>)
{
    $on = $1 if !defined $sql && /^On (\w+):$/;
    if (/^```sql$/) { ($sql, $line) = ('', $.); }
    elsif (/^```$/ && defined $sql) { push @blocks, [ $on, $line, $sql ]; undef $sql; }
    elsif (defined $sql) { $sql .= $_; }
}
close $doc;
cmp_ok(scalar @blocks, '>', 15, 'the manual has blocks of SQL');

# Not as bad as that: the node only has something that it has not sent.
sub forget_something
{
    my ($node) = @_;
    $node->safe_psql('app', 'SELECT cozesync.pause()');
    poll_until($node{berlin}, q{SELECT bool_and(state NOT IN ('streaming', 'catching up')) FROM cozesync.links
        WHERE 'tokyo' IN (source, target)}, 't', 'app');
    $node->safe_psql('app', q{INSERT INTO users (name) VALUES ('unsent')});
    return;
}

for my $block (@blocks)
{
    my ($name, $at, $text) = @$block;
    $text =~ s/host=(\w+) dbname=app/node_dsn($node{$1}, 'app')/ge;
    forget_something($node{$name}) if $text =~ /new_incarnation/;
    my ($status, $out, $err) = $node{$name}->psql('app', $text, on_error_stop => 1);
    is($status, 0, "line $at, on $name") or diag("$text\n$err");
    unlike($err // '', qr/WARNING|ERROR/, "line $at, without warnings") if $text !~ /drop_node|set_dsn|leave_group/;
    poll_until($node{$name}, q{SELECT count(*) = 1 FROM cozesync.nodes WHERE is_local AND state = 'ready'}, 't', 'app')
        if $text =~ /new_incarnation/;
}
ok(wait_quiet(\'app', @node{qw(berlin tokyo)}), 'in sync at the end');
same_rows([ @node{qw(berlin tokyo)} ], [qw(users orders)], 'with the same rows', 'app');
is($node{berlin}->safe_psql('app', q{SELECT string_agg(node_name || ' ' || state, ', ' ORDER BY node_name) FROM cozesync.nodes}),
    'berlin ready, tokyo ready', 'osaka has left');

# Who monitors may run the queries, too.
my ($watch) = map { $_->[2] } grep { $_->[2] =~ /FROM cozesync\.nodes ORDER BY/ } @blocks;
my ($links) = map { $_->[2] } grep { $_->[2] =~ /lag_transactions, pg_size_pretty/ } @blocks;
my ($stats) = map { $_->[2] } grep { $_->[2] =~ /FROM cozesync\.stats;/ } @blocks;
my ($lost) = map { $_->[2] } grep { $_->[2] =~ /GROUP BY 1, 2, 3/ } @blocks;
$node{berlin}->safe_psql('app', 'CREATE ROLE watcher IN ROLE pg_monitor');
for my $query ($watch, $links, $stats, $lost)
{
    my ($status, undef, $err) = $node{berlin}->psql('app', "SET ROLE watcher; $query", on_error_stop => 1);
    is($status, 0, 'as pg_monitor') or diag("$query\n$err");
}

done_testing();
