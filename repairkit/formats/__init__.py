"""What lies on disk: one typed record for each kind of file, how it is read and how it is written.

Reading is bounded and strict: a file that is broken, of another kind or of another version ends in
one line that says so. Writing is canonical: the same record gives the same bytes. This
package does not make records from models, data or runs: it knows only arrays and the nouns of
`repairkit.core`.
"""
