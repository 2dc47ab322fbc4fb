namespace Tomlyn.Syntax;

// Tomlyn's syntax tree, without its contents: here it is only the sign that a document is valid.
public sealed class DocumentSyntax : SyntaxNode;

public abstract class SyntaxNode : SyntaxNodeBase
{
    private protected SyntaxNode()
    {
    }
}

public abstract class SyntaxNodeBase;
